"""Answers that heads are measured on: how many of them, and whether they fit the heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.training.data.kept_rows import Answer, load_rows


def spread(answers: Sequence[Answer], most_tokens: int, least: int = 1) -> list[Answer]:
    """As many answers, spread evenly over all, as have this many tokens together.

    Args:
        least: how many in any case, where there are so many.
    """
    total = sum(len(answer.answer) for answer in answers)
    step = max(total / max(most_tokens, 1), 1.0)
    count = min(len(answers), max(least, int(len(answers) / step)))
    step = min(step, len(answers) / max(1, count))
    return [answers[int(number * step)] for number in range(count)]


def check_answers(checkpoint: HeadsCheckpoint, dataset: Path, answers: Sequence[Answer]) -> None:
    """Refuse answers that a folder of heads cannot be measured on.

    Args:
        dataset: where they are from.

    Raises:
        LMTPError: fewer than two, or answers of another model.
    """
    if len(answers) < 2:
        raise refuse(
            str(dataset),
            "answers",
            found=str(len(answers)),
            expected="at least 2, so that one can be set against another",
            remedy="distill more answers with `keep_rows: true`, or raise --tokens",
        )
    width = load_rows(answers[0]).shape[1]
    highest = max(max(answer.tokens) for answer in answers)
    if width != checkpoint.hidden_size or highest >= checkpoint.vocab_size:
        raise refuse(
            str(dataset),
            "rows",
            found=f"rows of {width}, tokens up to {highest}",
            expected=f"rows of {checkpoint.hidden_size}, tokens below {checkpoint.vocab_size}",
            remedy="give answers of the model that the heads were trained on",
        )
