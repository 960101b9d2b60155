"""What may go wrong around a running engine, and what must never cross from request to request."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.client import EngineError, EngineHost, counted
from tests.engine.conftest import KINDS
from tests.engine.test_chain import GREEDY, check, prompts_of
from tests.engine.test_copying import repeating
from tests.features.operations import RUNNERS
from tests.support.chain import scorers as chain_scorers
from tests.support.chain.target import VOCAB, Chain, make_chain, save_chain, simulate

Says = Callable[[str], None]
PLACES = 6
LENGTHS = [5, 40, 90]


@pytest.fixture(scope="session", params=RUNNERS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """As tests/engine/conftest.py has it, of the host beside this file."""
    runner, asynchronous = KINDS[request.param]
    log = tmp_path_factory.mktemp("logs") / f"{request.param}-faults.log"
    found = EngineHost(runner, asynchronous, log, module="tests.features.hosts.faults_host")
    yield found
    found.close()


class Heads:
    """Heads with a trained term, in a folder beside their target's."""

    def __init__(self, chain: Chain, root: Path) -> None:
        scoring = chain_scorers.markov(chain, range(VOCAB), per_head=True)
        self.chain = chain_scorers.scored(chain, scoring)
        self.target = save_chain(chain, root / "target", "plain")
        self.folder = scoring.add_to(save_chain(chain, root / "heads", "heads"))

    def start(self, host: EngineHost) -> None:
        spec = {"method": "lmtp", "model": str(self.folder)}
        host.start(self.target, speculative_config=spec, max_num_batched_tokens=64)


def overwritten(folder: Path) -> None:
    """In place, as `cp` and `rsync --inplace` do: whoever maps the file sees it."""
    for file in folder.glob("*.safetensors"):
        with file.open("r+b") as handle:
            handle.write(b"\x11" * file.stat().st_size)


def cut(folder: Path) -> None:
    """To nothing: whoever reads a map of the file beyond its end is killed."""
    for file in folder.glob("*.safetensors"):
        os.truncate(file, 0)


def config_changed(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_head": 2}))


def other_heads(folder: Path) -> None:
    """Of a model of another size."""
    tensors = load_file(folder / "model.safetensors")
    halved = {k: v[..., :64].contiguous() if k.endswith("t") else v for k, v in tensors.items()}
    save_file(halved, folder / "model.safetensors")


def config_deleted(folder: Path) -> None:
    (folder / "config.json").unlink()


def deleted(folder: Path) -> None:
    shutil.rmtree(folder)


FAULTS: dict[Callable[[Path], None], tuple[str, ...]] = {
    overwritten: (": content: found not a whole safetensors file",),
    cut: (": content: found not a whole safetensors file",),
    config_changed: ("heads.heads.*: found heads [0, 1, 2]", "expected 2 head(s)"),
    other_heads: ("heads.heads.0.resblock.0.l_proj.bias", "expected shape [64]"),
    config_deleted: ("config.json: found no such file",),
    deleted: (": path: found ",),
}


@pytest.mark.feature("faults", "heads file deleted or changed under the engine")
def test_nothing_happens_to_a_running_engine(host: EngineHost, tmp_path: Path, says: Says) -> None:
    """Drafts and their counters stay those of the simulator, whatever becomes of the files."""
    heads = Heads(make_chain(3, 2), tmp_path)
    heads.start(host)
    prompts = prompts_of(heads.chain, LENGTHS)
    check(host, heads.chain, prompts, 20, PLACES)
    for fault in (config_changed, overwritten, cut, deleted):
        fault(heads.folder)
        check(host, heads.chain, prompts, 20, PLACES)
    says("nothing happens: tokens and drafts equal")


@pytest.mark.feature("faults", "heads file deleted or changed before a restart")
def test_the_next_start_refuses(host: EngineHost, tmp_path: Path, says: Says) -> None:
    for fault, words in FAULTS.items():
        root = tmp_path / fault.__name__
        heads = Heads(make_chain(3, 2), root)
        fault(heads.folder)
        with pytest.raises(EngineError) as error:
            heads.start(host)
        message = str(error.value)
        assert error.value.kind == "LMTPError", message[-2000:]
        for part in (str(heads.folder), "found", "expected", "Remedy: ", *words):
            assert part in message
    heads = Heads(make_chain(3, 2), tmp_path / "whole")
    heads.start(host)  # and the same process serves when they are whole again
    check(host, heads.chain, prompts_of(heads.chain, [5]), 20, PLACES)
    says("refused with file, field, found, expected and remedy")


def with_a_hole(folder: Path, token: int) -> Path:
    """The target's embedding of one token is no number, nor is any state after it."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][token] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _never_seen(chain: Chain, prompts: list[list[int]]) -> int:
    """A token that stands in no prompt, and that nobody answers or drafts."""
    seen = {token for prompt in prompts for token in [*prompt, *chain.walk(prompt[-1], 30)]}
    seen |= {head[token] for head in chain.heads for token in set(seen)}
    return min(set(range(VOCAB)) - seen)


@pytest.mark.feature("faults", "NaN in the hidden states of one request")
def test_no_other_request_is_harmed(host: EngineHost, tmp_path: Path, says: Says) -> None:
    """All at once: who gets its blocks of the cache next is spoilt by vLLM's attention on CPUs,
    whatever drafts (docs/upstream/faults/stale_blocks.py). Its slot: tests/faults/test_nan.py."""
    chain = make_chain(3, 2)
    sound = prompts_of(chain, [5, 40, 33, 70, 9, 12])
    walks = [chain.walk(prompt[-1], 20)[1:] for prompt in sound]
    token = _never_seen(chain, sound)
    folder = with_a_hole(save_chain(chain, tmp_path / "nan"), token)
    host.start(folder, speculative_config="lmtp", max_num_batched_tokens=64, max_num_seqs=8)
    ill = [[*prompt, token, *prompt] for prompt in sound[:2]]
    mixed = [ill[0], *sound[:3], ill[1], *sound[3:]]
    # It ends last: what is no number drafts what is none, and each such draft is accepted.
    params = [{**GREEDY, "max_tokens": 100 if p in ill else 20} for p in mixed]
    reply = host.generate(mixed, params)
    answers = [tokens for (tokens,) in reply["tokens"]]
    assert answers[1:4] + answers[5:] == walks
    for tokens in (answers[0], answers[4]):
        assert tokens != chain.walk(sound[0][-1], 20)[1:]
        assert len(tokens) == 100
        assert all(0 <= t < VOCAB for t in tokens)
    drafted = counted(reply["counters"], PLACES, 2)
    alone = [simulate(chain, prompt, 20, PLACES)[1] for prompt in sound]
    assert drafted.num_drafts > sum(each.num_drafts for each in alone)
    assert sum(drafted.accepted_per_pos) >= sum(sum(each.accepted_per_pos) for each in alone)
    says(
        "those beside it: tokens equal; vLLM's attention on CPUs spoils whoever gets its blocks "
        "of the cache next, with plain decoding too"
    )


@pytest.mark.feature("faults", "texts of other requests, cache salts")
def test_texts_stay_apart(host: EngineHost, tmp_path: Path, says: Says) -> None:
    """The same text under another salt finds nothing cached and drafts as it did alone."""
    chain = make_chain(3, 2)
    host.start(
        save_chain(chain, tmp_path / "chain"),
        speculative_config="lmtp",
        max_num_batched_tokens=256,
        enable_prefix_caching=True,
        block_size=32,
    )
    params = {**GREEDY, "max_tokens": 20}
    prompt = max(repeating(chain), key=lambda p: min(len(p), 66) + _copied(chain, p))
    assert len(prompt) > 65
    walk = chain.walk(prompt[-1], 20)[1:]
    found = {}
    for name, salt in (("first", "a"), ("again", "a"), ("other", "b")):
        reply = host.call("ask", prompts=[prompt], salts=[salt], params=params)
        assert reply["tokens"] == [[walk]]
        found[name] = reply["cached"][0], counted(reply["counters"], PLACES, 2)
    assert found["first"][0] == found["other"][0] == 0
    assert found["again"][0] >= 64
    assert found["first"][1] == found["other"][1]
    assert found["first"][1].copied > 0
    # Together, in one batch: three times what it does alone.
    salts = ["c", "d", "e"]
    reply = host.call("ask", prompts=[prompt] * 3, salts=salts, params=params)
    assert reply["cached"] == [0, 0, 0]
    one = found["first"][1]
    assert counted(reply["counters"], PLACES, 2) == one + one + one
    _check_labels(host.call("labels")["labels"])
    says("nothing shared: cached 0 tokens, drafts equal")


def _copied(chain: Chain, prompt: list[int]) -> int:
    return simulate(chain, prompt, 20, PLACES)[1].copied


LABELS = {"model_name", "engine", "head", "lag", "source", "draft_length", "batch_size", "le"}


def _check_labels(labels: dict[str, list[list[str]]]) -> None:
    """No label can hold a text: there are few, and what they say is a number or a known word."""
    assert len(labels) >= 5
    for name, pairs in labels.items():
        for label, value in pairs:
            assert label in LABELS, (name, label)
            known = label == "model_name" or value in ("head", "copy", "+Inf")
            assert known or float(value) == float(value), (name, label, value)


def test_a_label_that_holds_a_text_would_be_seen() -> None:
    good = {f"m{i}": [["head", "1"]] for i in range(5)}
    _check_labels(good)
    for bad in (["prompt", "1"], ["head", "Once upon"]):
        with pytest.raises((AssertionError, ValueError)):
            _check_labels({**good, "m": [bad]})


def test_nan_is_what_the_hole_makes(tmp_path: Path) -> None:
    folder = with_a_hole(save_chain(make_chain(1, 1), tmp_path), 7)
    embed = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.isnan(embed).any(dim=1).nonzero().flatten().tolist() == [7]
