"""What the demo asks of both engines, without engines."""

from __future__ import annotations

import pytest

from vllm_lmtp.eval.engines.engine import Run
from vllm_lmtp.eval.measurements.compare import _compare_prompt, mixed_lengths


@pytest.mark.parametrize("tokens", [1, 2, 7, 96])
def test_answers_of_streams_that_go_on_have_many_lengths_around_one(tokens: int) -> None:
    lengths = mixed_lengths(tokens, 400)
    assert len(lengths) == 400
    assert min(lengths) == max(1, tokens // 2)
    assert max(lengths) == tokens + tokens // 2
    assert sum(lengths) / 400 == pytest.approx(tokens, rel=0.1 if tokens > 1 else 0)
    assert mixed_lengths(tokens, 40) == lengths[:40]  # the same for both engines, and every round


@pytest.mark.parametrize("other", [1, 3])
def test_every_time_that_a_prompt_was_asked_counts(other: int) -> None:
    """Two prompts, asked twice each; the second differs once."""
    single = Run([[1], [2]], ["a", "b"]), Run([[1], [2]], ["a", "b"])
    tokens = [[5], [6], [7], [8]]
    different = [[0] if i == other else answer for i, answer in enumerate(tokens)]
    batch = Run(tokens), Run(different)
    first, second = (_compare_prompt(i, "?", single, batch) for i in range(2))
    assert first["identical"]
    assert second["identical_alone"]
    assert not second["identical_in_batch"]
    assert not second["identical"]
