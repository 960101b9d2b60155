"""Engines of each kind that are asked for more than text, once as plain decoding and once with
drafts, and how their answers are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.client import EngineHost
from tests.engine.conftest import KINDS

RUNNERS = ["v1", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("v2", "v2-async"))]
CLOSE = 2e-3
"""Log-probabilities of batches of another shape differ by less."""
ACCEPTED = "vllm:spec_decode_num_accepted_tokens"


@pytest.fixture(scope="module", params=RUNNERS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A host of `requests_host.py`; a module that imports this has its own."""
    log = tmp_path_factory.mktemp("logs") / f"{request.param}.log"
    runner, asynchronous = KINDS[request.param]
    host = EngineHost(runner, asynchronous, log, module="tests.features.hosts.requests_host")
    yield host
    host.close()


Replies = dict[str, dict[str, Any]]


def both(
    host: EngineHost, model: Any, cases: dict[str, tuple[str, dict[str, Any]]], **engine: Any
) -> tuple[Replies, Replies]:
    """The replies to all cases of an engine without drafts, and of one with them.

    Args:
        cases: by name, the operation of the host and its arguments.
    """
    replies: list[Replies] = []
    for spec in (None, "lmtp"):
        host.start(model, speculative_config=spec, **engine)
        replies.append({name: host.call(op, **given) for name, (op, given) in cases.items()})
    return replies[0], replies[1]


def check_equal(plain: dict[str, Any], drafted: dict[str, Any]) -> None:
    """The same answers, for the same reasons, as likely; with accepted drafts in them."""
    for what in ("tokens", "texts", "finish"):
        assert drafted[what] == plain[what], what
    assert_close(drafted["sums"], plain["sums"])
    for what in ("logprobs", "prompt_logprobs"):
        assert_close(drafted[what], plain[what])
    assert drafted["counters"][ACCEPTED] > 0


def assert_close(ours: Any, plain: Any) -> None:
    """The same shape and tokens, and numbers that are close."""
    if isinstance(plain, dict):
        assert ours.keys() == plain.keys()
        ours, plain = [ours[key] for key in plain], list(plain.values())
    if isinstance(plain, list):
        assert len(ours) == len(plain)
        for one, other in zip(ours, plain, strict=True):
            assert_close(one, other)
    elif plain is None:
        assert ours is None
    else:
        assert ours == pytest.approx(plain, abs=CLOSE)
