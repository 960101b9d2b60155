"""Prefixes that another engine computed, or that lay outside the accelerator: cold, never wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.engine.client import GPU, EngineError, EngineHost
from tests.engine.test_real import CHECKPOINT, OPENINGS, asked
from tests.features.operations import host as host  # pytest finds fixtures by name
from tests.support.random_models import succeed

Says = Callable[[str], None]
BLOCK = 32
LENGTHS = [98, 110, 66]
"""Of the prompts: the first and the last have two tokens left after their whole blocks, the fewest
with which the example connector finds a prompt again."""
STRIDE = 4
"""Of the heads, so that two known rows are too few."""
ENGINE: dict[str, Any] = {
    "block_size": BLOCK,
    "max_num_batched_tokens": 128,
    "enable_prefix_caching": True,
}


def _prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    texts = [tokenizer(text)["input_ids"] for text in OPENINGS]
    return [(text * 30)[:length] for text, length in zip(texts, LENGTHS, strict=False)]


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The embedded checkpoint as a plain model, and its second head as one of stride 4."""
    root = tmp_path_factory.mktemp("apart")
    succeed("export", CHECKPOINT, root / "plain")
    succeed("convert", "--to", "heads", CHECKPOINT, root / "heads", "--every", "2")
    return root / "plain", {"method": "lmtp", "model": str(root / "heads")}


def _one_by_one(host: EngineHost, visits: int = 1) -> list[dict[str, Any]]:
    _, greedy = asked(host, [])
    return [host.generate([prompt], greedy) for _ in range(visits) for prompt in _prompts()]


def _tokens(replies: list[dict[str, Any]]) -> list[Any]:
    return [reply["tokens"] for reply in replies]


def _drafts(reply: dict[str, Any]) -> dict[str, float]:
    """What is counted of drafts, times aside."""
    counters = reply["counters"]
    parts = ("spec_decode", "lmtp_num")
    return {key: value for key, value in counters.items() if any(part in key for part in parts)}


def _connector(name: str, role: str, **extra: Any) -> dict[str, Any]:
    return {"kv_connector": name, "kv_role": role, "kv_connector_extra_config": extra}


@pytest.mark.feature("KV connectors", "example connector: prefill in one engine, decode in another")
def test_shared_storage(
    host: EngineHost, apart: tuple[Path, dict[str, str]], tmp_path: Path, says: Says
) -> None:
    """One engine fills a folder, the next one takes the prompts' whole blocks out of it.

    What is counted then is what is counted in the first engine when it finds the prompts in its
    own prefix cache, whose counters other tests hold to an oracle.
    """
    target, spec = apart
    storage = {"shared_storage_path": str(tmp_path)}
    host.start(target, **ENGINE)
    plain = _one_by_one(host)
    both, taker = (
        _connector("ExampleConnector", role, **storage) for role in ("kv_both", "kv_consumer")
    )
    host.start(target, **ENGINE, speculative_config=spec, kv_transfer_config=both)
    visits = _one_by_one(host, 2)
    alone, again = visits[: len(LENGTHS)], visits[len(LENGTHS) :]
    host.start(target, **ENGINE, speculative_config=spec, kv_transfer_config=taker)
    taken = _one_by_one(host)
    assert _tokens(alone) == _tokens(again) == _tokens(taken) == _tokens(plain)
    found = [[(length - 1) // BLOCK * BLOCK] for length in LENGTHS]
    assert [reply["cached"] for reply in again] == found
    assert [reply["cached"] for reply in alone] == [[0]] * len(LENGTHS)
    assert [reply["cached"] for reply in taken] == found
    assert [_drafts(reply) for reply in taken] == [_drafts(reply) for reply in again]
    cold = [reply["counters"]["vllm:lmtp_num_cold_drafts"] for reply in taken]
    assert [bool(count) for count in cold] == [length % BLOCK < STRIDE for length in LENGTHS]
    assert all(reply["counters"]["vllm:lmtp_num_cold_drafts"] == 0 for reply in alone)
    lengths = [_acceptance_length(replies) for replies in (alone, taken)]
    says(
        "tokens equal; cold and counted as after a prefix-cache hit; "
        f"acceptance length {lengths[1]:.2f}, in one engine {lengths[0]:.2f}"
    )


def _acceptance_length(replies: list[dict[str, Any]]) -> float:
    drafts, accepted = (
        sum(reply["counters"][f"vllm:spec_decode_num_{what}"] for reply in replies)
        for what in ("drafts", "accepted_tokens")
    )
    assert accepted
    return 1 + accepted / drafts


OFFLOADING = {
    "OffloadingConnector": "CPU Offloading is currently only supported on CUDA-alike and XPU GPUs",
    "SimpleCPUOffloadConnector": "'_StreamPlaceholder' has no attribute 'priority_range'",
}
"""And how vLLM's CPU build refuses each."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.feature("KV connectors", f"{name}, blocks in memory"))
        for name in OFFLOADING
    ],
)
def test_offloading(host: EngineHost, name: str, tmp_path: Path, says: Says) -> None:
    connector = _connector(name, "kv_both", cpu_bytes_to_use=100_000_000)
    kept: dict[str, Any] = {**ENGINE, "kv_transfer_config": connector}
    if not GPU:
        # A connector that failed stays behind in its process.
        other = EngineHost(host.runner, host.asynchronous, tmp_path / "log")
        with pytest.raises(EngineError) as refusal:
            other.start(CHECKPOINT, **kept)
        other.close()
        assert OFFLOADING[name] in str(refusal.value)
        says(f'vLLM refuses: "{OFFLOADING[name]}"')
        return
    host.start(CHECKPOINT, **ENGINE)
    plain = _one_by_one(host)
    host.start(CHECKPOINT, speculative_config="lmtp", **kept)
    first = _one_by_one(host)
    host.call("ask", method="reset_prefix_cache")
    again = _one_by_one(host)
    assert _tokens(first) == _tokens(again) == _tokens(plain)
    assert any(reply["cached"][0] for reply in again)
    says("tokens equal, blocks taken back from memory")
