"""Sleep, reset and reload: what the CPU build has of them; the rest is for a machine with a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.engine.client import GPU, EngineError, EngineHost
from tests.engine.test_real import CHECKPOINT, OPENINGS, asked
from tests.features.operations import host as host  # pytest finds fixtures by name

Says = Callable[[str], None]
GROUP = "sleep and reload"
REFUSED = "Sleep mode is not supported on current platform."
UNFOUND = "Field '_hf_config_revision' not found in ModelConfig."
WEIGHTS = "model.safetensors"
BLOCK = 32


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    return [tokenizer(text)["input_ids"] for text in OPENINGS]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint with a backbone that writes otherwise."""
    folder = tmp_path_factory.mktemp("other") / "stage1"
    shutil.copytree(CHECKPOINT, folder)
    tensors = load_file(CHECKPOINT / WEIGHTS)
    generator = torch.Generator().manual_seed(3)
    for name, tensor in tensors.items():
        if ".layers." in name and tensor.ndim == 2:
            noise = 0.01 * torch.randn(tensor.shape, generator=generator)
            tensors[name] = tensor + noise.bfloat16()
    save_file(tensors, folder / WEIGHTS)
    return folder


def _answers(host: EngineHost, prompts: list[list[int]]) -> dict[str, Any]:
    return host.generate(*asked(host, prompts))


def _same(reply: dict[str, Any], before: dict[str, Any]) -> None:
    """The same tokens, of which as many are drafts: the heads are what they were."""
    assert reply["tokens"] == before["tokens"]
    for count in ("vllm:spec_decode_num_drafts", "vllm:spec_decode_num_accepted_tokens"):
        assert reply["counters"][count] == before["counters"][count] > 0


@pytest.mark.feature(GROUP, "`--enable-sleep-mode`")
def test_sleep_mode(host: EngineHost, says: Says) -> None:
    if GPU:
        host.start(CHECKPOINT, speculative_config="lmtp", enable_sleep_mode=True)
        says("taken")
        return
    for spec in (None, "lmtp"):
        with pytest.raises(EngineError, match=REFUSED):
            host.start(CHECKPOINT, speculative_config=spec, enable_sleep_mode=True)
    says(f'vLLM refuses: "{REFUSED}"')


@pytest.mark.slow
@pytest.mark.parametrize(
    "level", [pytest.param(n, marks=pytest.mark.feature(GROUP, f"sleep level {n}")) for n in (1, 2)]
)
def test_levels(host: EngineHost, prompts: list[list[int]], level: int, says: Says) -> None:
    """Level 2 throws the weights away; vLLM reloads the target's, and the heads are kept."""
    if not GPU:
        pytest.skip("needs a GPU, `make test-features` there: vLLM's CPU worker ignores sleep")
    host.start(CHECKPOINT, speculative_config="lmtp", enable_sleep_mode=True)
    before = _answers(host, prompts)
    host.call("ask", method="sleep", level=level)
    host.call("ask", method="wake_up")
    if level == 2:
        host.call("tell_workers", method="reload_weights")
    _same(_answers(host, prompts), before)
    says("exact")


@pytest.mark.feature(GROUP, "sleep level 0, `reset_prefix_cache`, sleep ignored by the worker")
def test_reset(host: EngineHost, prompts: list[list[int]], says: Says) -> None:
    """Paused and gone on, emptied, and told to sleep without sleep mode, which only empties."""
    prompts = [(prompt * 20)[: 2 * BLOCK + 7] for prompt in prompts]
    host.start(CHECKPOINT, speculative_config="lmtp", enable_prefix_caching=True, block_size=BLOCK)
    first = _answers(host, prompts)
    host.call("ask", method="sleep", level=0)
    host.call("ask", method="wake_up", tags=["scheduling"])
    found = _answers(host, prompts)
    assert set(found["cached"]) == {2 * BLOCK}
    assert found["tokens"] == first["tokens"]
    host.call("ask", method="reset_prefix_cache")
    again = [_answers(host, prompts)]
    if not GPU:
        host.call("ask", method="sleep", level=1)
        host.call("ask", method="wake_up")
        again.append(_answers(host, prompts))
    for reply in again:
        assert set(reply["cached"]) == {0}
        _same(reply, first)
    says("exact")


@pytest.mark.feature(GROUP, "`reload_weights`, `update_config` of `load_config`")
def test_reload(host: EngineHost, prompts: list[list[int]], other: Path, says: Says) -> None:
    """Another target's weights come in, and go again; the heads stay, and guess."""
    host.start(other)
    wanted = _answers(host, prompts)["tokens"]
    _no_model_config(host)
    host.start(CHECKPOINT, speculative_config="lmtp")
    before = _answers(host, prompts)
    overrides = {"load_config": {"use_tqdm_on_load": False}}
    host.call("tell_workers", method="update_config", overrides=overrides)
    for folder, tokens in ((other, wanted), (CHECKPOINT, before["tokens"])):
        host.call("tell_workers", method="reload_weights", weights_path=str(folder))
        reply = _answers(host, prompts)
        assert reply["tokens"] == tokens
        assert reply["counters"]["vllm:spec_decode_num_accepted_tokens"] > 0
    assert wanted != before["tokens"]
    _same(reply, before)
    _no_model_config(host)
    says(f'exact: the target changes, the heads stay; of `model_config` vLLM says "{UNFOUND}"')


def _no_model_config(host: EngineHost) -> None:
    """vLLM cannot copy a `ModelConfig`, whoever asks: a private field of it has no argument."""
    overrides = {"model_config": {"model": str(CHECKPOINT)}}
    with pytest.raises(EngineError, match=UNFOUND):
        host.call("tell_workers", method="update_config", overrides=overrides)
