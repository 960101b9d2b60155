"""What the demo asks of both engines, without engines."""

from __future__ import annotations

import pytest

from vllm_lmtp.eval.engines.engine import Run
from vllm_lmtp.eval.measurements.compare import _compare_prompt


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
