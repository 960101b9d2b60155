"""Shares and lengths with standard errors that take answers, not tokens, as independent.

The tokens of one answer are alike: an answer that loops is right, or wrong, hundreds of times in a
row. Errors that took every token as a draw of its own would be far too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any


def share(counts: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """A share over all answers, and its standard error with answers as clusters.

    Args:
        counts: of each answer, how many hits and how many tries.

    Returns:
        {"hits", "tries", "rate", "se"}; rate is None without a try, se with fewer than two answers
        that have one.
    """
    counts = [(hits, tries) for hits, tries in counts if tries]
    hits, tries = (sum(c[i] for c in counts) for i in (0, 1))
    if not tries:
        return {"hits": 0, "tries": 0, "rate": None, "se": None}
    rate, groups = hits / tries, len(counts)
    error = None
    if groups > 1:
        squares = sum((h - rate * t) ** 2 for h, t in counts)
        error = math.sqrt(squares * groups / (groups - 1)) / tries
    return {"hits": hits, "tries": tries, "rate": rate, "se": error}


def mean(values: Sequence[float]) -> dict[str, Any]:
    """A mean and its standard error: {"value", "se"}, None where there is too little."""
    count = len(values)
    if not count:
        return {"value": None, "se": None}
    value = sum(values) / count
    if count == 1:
        return {"value": value, "se": None}
    variance = sum((v - value) ** 2 for v in values) / (count - 1)
    return {"value": value, "se": math.sqrt(variance / count)}


def jackknife(
    parts: Sequence[Sequence[float]], estimate: Callable[[Sequence[float]], float | None]
) -> dict[str, Any]:
    """An estimate from the sums over all answers, and its standard error by leaving one out.

    Args:
        parts: of each answer, the numbers that are summed.
        estimate: from the sums; None where they do not allow one.

    Returns:
        {"value", "se"}.
    """
    if not parts:
        return {"value": None, "se": None}
    totals = [sum(column) for column in zip(*parts, strict=True)]
    value, groups = estimate(totals), len(parts)
    if value is None or groups < 2:
        return {"value": value, "se": None}
    without = [
        estimate([total - own for total, own in zip(totals, part, strict=True)]) for part in parts
    ]
    if any(v is None for v in without):
        return {"value": value, "se": None}
    found = [v for v in without if v is not None]
    middle = sum(found) / groups
    spread = sum((v - middle) ** 2 for v in found)
    return {"value": value, "se": math.sqrt(spread * (groups - 1) / groups)}
