"""Model Runner V1 samples a step without drafts as plain decoding does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_lmtp.patches.no_drafts import _sample
from vllm_lmtp.proposer import LMTPProposer


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
