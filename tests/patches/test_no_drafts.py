"""Model Runner V1 prepares and samples a step without drafts as plain decoding does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vllm_lmtp.patches.no_drafts import _describe, _sample
from vllm_lmtp.runner_v1.proposer import LMTPProposer


def sampled(drafter: Any, metadata: Any, **named: Any) -> Any:
    """The metadata that vLLM's own method is given."""
    given: list[Any] = []

    def wrapped(logits: Any, spec_decode_metadata: Any) -> str:
        given.append((logits, spec_decode_metadata))
        return "tokens"

    arguments = ("logits",) if named else ("logits", metadata)
    runner = SimpleNamespace() if drafter is None else SimpleNamespace(drafter=drafter)
    assert _sample(wrapped, runner, arguments, named) == "tokens"
    ((logits, found),) = given
    assert logits == "logits"
    return found


@pytest.mark.parametrize(("drafts", "kept"), [([0, 0], False), ([0, 2], True), ([], False)])
def test_without_a_single_draft_there_is_no_verdict(drafts: list[int], kept: bool) -> None:
    ours = object.__new__(LMTPProposer)
    metadata = SimpleNamespace(num_draft_tokens=drafts)
    assert (sampled(ours, metadata) is metadata) == kept
    assert (sampled(ours, None, spec_decode_metadata=metadata) is metadata) == kept
    assert sampled(ours, None) is None


@pytest.mark.parametrize("drafter", [None, object()])
def test_other_drafters_are_left_alone(drafter: Any) -> None:
    metadata = SimpleNamespace(num_draft_tokens=[0])
    assert sampled(drafter, metadata) is metadata


def described(runner: Any, *rows: int, drafts: int = 0) -> tuple[Any, ...]:
    """The description of a step in which each request computes so many tokens; the last drafts."""
    drafted = np.array([0] * (len(rows) - 1) + [drafts])
    scheduled = np.cumsum(rows)
    given: list[Any] = []

    def wrapped(num_draft_tokens: Any, cu_num_scheduled_tokens: Any) -> object:
        assert num_draft_tokens is drafted
        assert cu_num_scheduled_tokens is scheduled
        given.append(object())
        return given[-1]

    return _describe(wrapped, runner, (drafted, scheduled), {}), len(given)


def test_steps_of_one_token_each_are_described_once() -> None:
    ours = object.__new__(LMTPProposer)
    ours.undrafted = {}
    runner = SimpleNamespace(drafter=ours)
    two, asked = described(runner, 1, 1)
    assert asked == 1
    assert described(runner, 1, 1) == (two, 0)
    three, asked = described(runner, 1, 1, 1)
    assert asked == 1
    assert three is not two
    for rows, drafts in (((1, 3), 2), ((2, 1), 0)):  # a draft is verified; a prompt is computed
        again, asked = described(runner, *rows, drafts=drafts)
        assert asked == 1
        assert again is not two
    assert described(runner, 1, 1) == (two, 0)


@pytest.mark.parametrize("drafter", [None, object()])
def test_other_drafters_steps_are_described_each_time(drafter: Any) -> None:
    runner = SimpleNamespace(drafter=drafter)
    first, _ = described(runner, 1, 1)
    second, asked = described(runner, 1, 1)
    assert asked == 1
    assert first is not second
