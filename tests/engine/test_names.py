"""Names that are enough: Hugging Face ids, and folders that state their target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.engine.client import EngineError, EngineHost, counted
from tests.engine.conftest import KINDS
from tests.engine.test_chain import check, prompts_of
from tests.engine.test_real import CHECKPOINT
from tests.support.chain.target import Chain, save_chain
from tests.support.random_models import config_of, succeed
from vllm_lmtp.checkpoints import smollm2
from vllm_lmtp.checkpoints.packaged import prepare
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.speculators import FIELD

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FORMS = ["heads", "stage1"]
BESIDE_IT: dict[str, Any] = {"max_model_len": 160, "max_num_batched_tokens": 64}


def put_in_cache(hub: Path, name: str, chain: Chain, layout: str) -> str:
    """Lay a checkpoint into a hub cache as a download would; returns its id."""
    repo = hub / f"models--org--{name}"
    save_chain(chain, repo / "snapshots" / COMMIT, layout)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return f"org/{name}"


def test_ids_of_target_and_heads(chain: Chain, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    stage1 = put_in_cache(hub, "stage1", chain, "stage1")
    target = put_in_cache(hub, "target", chain, "plain")
    heads = put_in_cache(hub, "heads", chain, "heads")
    host = EngineHost(1, False, tmp_path / "host.log", hub=hub)
    try:
        for model, spec in (
            (stage1, "lmtp"),
            (target, {"method": "lmtp", "model": heads}),
            (target, {"model": heads}),
        ):
            host.start(model, speculative_config=spec, skip_tokenizer_init=True)
            check(host, chain, prompts_of(chain, [5, 40]), 20, 6, 512)
        with pytest.raises(EngineError, match="org/nowhere: path: found no such folder"):
            host.start(
                target,
                speculative_config={"method": "lmtp", "model": "org/nowhere"},
                skip_tokenizer_init=True,
            )
    finally:
        host.close()


def in_form(form: str, stage1: Path, folder: Path) -> Path:
    """A stage-1 folder as heads that name another folder, or as a folder that names itself."""
    plain, heads, alone = (folder / name for name in ("plain", "heads", "stage1"))
    succeed("export", stage1, plain)
    succeed("convert", "--to", "heads", stage1, heads, "--target", plain)
    succeed("convert", "--to", "stage1", heads, alone, "--target", plain, "--alone")
    return folder / form


@pytest.mark.parametrize("form", FORMS)
def test_the_chain(
    host: EngineHost, chain: Chain, chain_folder: Path, tmp_path: Path, form: str
) -> None:
    folder = in_form(form, chain_folder, tmp_path)
    host.start(folder, speculative_config={}, max_model_len=160)
    check(host, chain, prompts_of(chain, [2, 90, 5, 40], seed=2), 30, 6)


def replies(host: EngineHost, starts: list[tuple[Path, Any]], texts: list[str]) -> list[Any]:
    """What each start answers, with its counters. The first one's folder has a tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(starts[0][0])
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    found = []
    for model, spec in starts:
        host.start(model, speculative_config=spec, **BESIDE_IT)
        reply = host.generate(prompts, {"temperature": 0, "max_tokens": 32, "ignore_eos": True})
        found.append((reply["tokens"], counted(reply["counters"], 6, 2)))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_the_embedded_checkpoint(host: EngineHost, tmp_path: Path, form: str) -> None:
    folder = in_form(form, CHECKPOINT, tmp_path)
    starts = [(CHECKPOINT, "lmtp"), (folder, {})]
    long, short = replies(host, starts, ["Once upon a time", "Tom and Lily went to the"])
    assert short == long
    assert sum(long[1].accepted_per_pos) > 0


@pytest.fixture(params=list(KINDS))
def with_smollm2(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineHost]:
    """A host whose hub cache holds, under the id that the heads state, the target that is here."""
    try:
        target = prepare(smollm2.MODEL)
    except LMTPError as error:
        pytest.skip(f"needs the package index once, for SmolLM2's weights: {error}")
    stated = config_of(smollm2.HEADS)[FIELD]["verifier"]["name_or_path"]
    hub = tmp_path / "hub"
    repo = hub / f"models--{stated.replace('/', '--')}"
    (repo / "snapshots").mkdir(parents=True)
    (repo / "snapshots" / COMMIT).symlink_to(target)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    runner, asynchronous = KINDS[request.param]
    host = EngineHost(runner, asynchronous, tmp_path / "host.log", hub=hub)
    yield host
    host.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_smollm2s_heads(with_smollm2: EngineHost) -> None:
    long_form = {"method": "lmtp", "model": str(smollm2.HEADS)}
    starts = [(prepare(smollm2.MODEL), long_form), (smollm2.HEADS, {})]
    prompts = ["The capital of France is", "One, two, three, one, two,"]
    long, short = replies(with_smollm2, starts, prompts)
    assert short == long
    assert sum(long[1].accepted_per_pos) > 0
