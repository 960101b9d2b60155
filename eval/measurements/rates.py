"""Speeds from cells: pure arithmetic. docs/evaluation.md defines the numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from vllm_lmtp.eval.engines.cells import Cell


def summarise(cells: Sequence[Cell], plain: Sequence[Cell] | None) -> dict[str, Any]:
    """One method at one load.

    Args:
        cells: of each round. plain: plain decoding's cells of the same rounds, None for itself.

    Returns:
        tokens_per_second, speed_up: {"median", "least", "most", "rounds"}; the speed-up of a round
        is over plain decoding in the same round. step_ms: wall time over engine steps, of all
        rounds together, the prompts' own steps included; draft_ms: time of a drafting pass;
        rest_ms: what is left of a step, which is verification, sampling and scheduling.
        acceptance_length: 1 + accepted / drafts. efficiency: speed-up over acceptance length, which
        is 1 where drafting and verifying cost nothing. Each is None where it is not known.
    """
    speeds = [cell.tokens / cell.seconds for cell in cells]
    ratios = None
    if plain is not None:
        ratios = [
            speed / (cell.tokens / cell.seconds) for speed, cell in zip(speeds, plain, strict=True)
        ]
    steps, passes = sum(c.steps for c in cells), sum(c.draft_passes for c in cells)
    drafts, accepted = sum(c.drafts for c in cells), sum(c.accepted_tokens for c in cells)
    step = 1e3 * sum(c.seconds for c in cells) / steps if steps else None
    draft_seconds = sum(c.draft_seconds for c in cells)
    length = 1 + accepted / drafts if drafts else None
    speed_up = None if ratios is None else over_rounds(ratios)
    return {
        "requests": len(cells[0].answers),
        "tokens": sum(c.tokens for c in cells),
        "tokens_per_second": over_rounds(speeds),
        "speed_up": speed_up,
        "step_ms": step,
        "draft_ms": 1e3 * draft_seconds / passes if passes else None,
        "rest_ms": step - 1e3 * draft_seconds / steps if step is not None and passes else None,
        "drafts": drafts,
        "draft_tokens": sum(c.draft_tokens for c in cells),
        "accepted_tokens": accepted,
        "acceptance_length": length,
        "efficiency": speed_up["median"] / length if speed_up and length else None,
        "answers": None if plain is None else compare(cells, plain),
    }


def over_rounds(values: Sequence[float]) -> dict[str, Any]:
    """Median and spread."""
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "rounds": list(values),
    }


def compare(cells: Sequence[Cell], plain: Sequence[Cell]) -> dict[str, Any]:
    """Answers of all rounds against plain decoding's.

    Returns:
        {"answers", "identical", "first_differences": places in the answers that are not, in order}.
    """
    places = [
        first_difference(expected, got)
        for cell, other in zip(cells, plain, strict=True)
        for got, expected in zip(cell.answers, other.answers, strict=True)
    ]
    different = sorted(place for place in places if place is not None)
    return {
        "answers": len(places),
        "identical": len(places) - len(different),
        "first_differences": different,
    }


def first_difference(expected: Sequence[int], got: Sequence[int]) -> int | None:
    """The first place where two answers differ, which may be the end of the shorter one."""
    for place, (one, other) in enumerate(zip(expected, got, strict=False)):
        if one != other:
            return place
    return None if len(expected) == len(got) else min(len(expected), len(got))
