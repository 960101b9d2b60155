"""Requests that come in parts, and requests that leave before their answer ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.engine.client import EngineHost
from tests.engine.conftest import KINDS
from tests.engine.test_real import CHECKPOINT, OPENINGS
from tests.features.requests_engines import ACCEPTED, RUNNERS

# Four engines' processes; what is mended for them is tested without one in tests/patches.
pytestmark = pytest.mark.slow
Says = Callable[[str], None]
SESSIONS = [
    ["Once upon a time", " there was a cat", " and a dog"],
    ["The sun was", " very hot and the cat", " was sad"],
    ["Tom and Lily", " played"],
    ["One day, a big dog", " ran", " and ran"],
]
GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module", params=RUNNERS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A host of `stream_host.py`, whose engine is an `AsyncLLM`."""
    log = tmp_path_factory.mktemp("logs") / f"{request.param}.log"
    runner, asynchronous = KINDS[request.param]
    host = EngineHost(runner, asynchronous, log, module="tests.features.hosts.stream_host")
    yield host
    host.close()


@pytest.fixture(scope="module")
def served(host: EngineHost) -> list[dict[str, Any]]:
    """What was answered in plain decoding, and then with drafts: two engines for all."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    sessions = [[tokenizer(part)["input_ids"] for part in parts] for parts in SESSIONS]
    prompts = [tokenizer(text)["input_ids"] for text in OPENINGS]
    requests, most = (200, 24) if host.runner == 1 else (12, 12)
    storm = [prompts[n % len(prompts)] for n in range(requests)]
    # Every fourth stays; the others leave after 1, 4 and 7 tokens or soon after.
    leave = [None if n % 4 == 0 else 3 * (n % 4) - 2 for n in range(requests)]
    parts = {"sessions": sessions, "params": GREEDY | {"max_tokens": 12}}
    greedy = GREEDY | {"max_tokens": most}
    replies = []
    for spec in (None, "lmtp"):
        host.start(CHECKPOINT, speculative_config=spec, enable_prefix_caching=True)
        reply = {f"waiting={wait}": host.call("in_parts", wait=wait, **parts) for wait in (0, 1)}
        stay: list[None] = [None] * len(prompts)
        if spec is not None:
            reply["storm"] = host.call("storm", prompts=storm, params=greedy, leave=leave)
        reply["calm"] = host.call("storm", prompts=prompts, params=greedy, leave=stay)
        reply["after"] = host.call("counters")
        replies.append(reply)
    return replies


@pytest.mark.feature("requests", "input in parts (`StreamingInput`)")
def test_input_in_parts(served: list[dict[str, Any]], says: Says) -> None:
    plain, drafted = served
    for name in ("waiting=0", "waiting=1"):
        assert drafted[name]["tokens"] == plain[name]["tokens"]
        assert [len(t) for t in drafted[name]["tokens"]] == [12 * len(s) for s in SESSIONS]
    says("tokens equal")


@pytest.mark.feature("requests", "aborts by the hundred")
def test_aborts(served: list[dict[str, Any]], says: Says) -> None:
    """Whoever stays is answered in full, whoever leaves had the beginning of that answer."""
    plain, drafted = served
    assert drafted["calm"]["tokens"] == plain["calm"]["tokens"]
    whole = drafted["calm"]["tokens"]
    stayed = left = 0
    for number, tokens in enumerate(drafted["storm"]["tokens"]):
        answer = whole[number % len(whole)]
        if number % 4 == 0:
            assert tokens == answer
        else:
            assert tokens == answer[: len(tokens)]
        stayed, left = stayed + (tokens == answer), left + (tokens != answer)
    assert stayed > 2
    assert left > 2
    assert drafted["storm"]["counters"][ACCEPTED] > 0
    for gauge in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
        assert drafted["after"][gauge] == 0
    says("answers equal, the rest a beginning of them")
