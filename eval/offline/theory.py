"""The paper's model of accuracy and length (arXiv 2505.17505, section 4): pure maths.

A token i ahead is predicted rightly with a probability f(i) that falls with i alone. With f(i) =
exp(-g(i - 1)), g is the attenuation, and the expected length of a step follows from the schedule,
if the places of a draft are right or wrong independently. Lengths count the target's own token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vllm_lmtp.method.leap import LeapSchedule

MOST = 100.0
HALVINGS = 200
LARGEST_EXPONENT = 700.0  # beyond it a float64 overflows, and what is divided is 0 anyway


def fit_attenuation(points: Sequence[tuple[int, float, float]]) -> float | None:
    """The attenuation g that makes the counts most likely.

    Args:
        points: (offset, hits, tries), offset > 1.

    Returns:
        g >= 0, or None where nothing was tried or nothing was hit.
    """
    points = [p for p in points if p[2]]
    if not points or not any(hits for _, hits, _ in points):
        return None

    def slope(g: float) -> float:
        """Of the log-likelihood; falls with g."""
        total = 0.0
        for offset, hits, tries in points:
            distance = offset - 1
            total -= distance * hits
            if tries > hits:
                total += distance * (tries - hits) / math.expm1(min(g * distance, LARGEST_EXPONENT))
        return total

    if all(hits == tries for _, hits, tries in points):
        return 0.0
    low, high = 1e-12, MOST / min(offset - 1 for offset, _, _ in points)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if slope(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def attenuated(g: float) -> Callable[[int], float]:
    """f(i) = exp(-g(i - 1))."""
    return lambda offset: math.exp(-g * (offset - 1))


def length_of(rates: Sequence[float]) -> float:
    """1 + the sum of the products of the first 1, 2, ... rates: the expected length of a step whose
    places are right independently with these probabilities."""
    total, product = 1.0, 1.0
    for rate in rates:
        product *= rate
        total += product
    return total


def expected_length(schedule: LeapSchedule, f: Callable[[int], float]) -> float:
    """The paper's E[L]: a place counts with f at the distance its head leaps.

    Stride 1 gives the paper's length for multi-token prediction with n + 1 heads, the LM head being
    the first. For strides above 2 the paper's formula swaps lags; here each head is read at the
    offset it was trained on, as it is served.
    """
    return length_of(
        [
            f(schedule.offset_of_head(source.head))
            for source in schedule.sources(schedule.max_drafts)
        ]
    )


def break_even(leap: LeapSchedule) -> float:
    """The attenuation at which leaping and as many adjacent heads are worth the same; below it
    leaping is worth more. Strides above 1 only."""
    adjacent = LeapSchedule(leap.n_heads, 1)
    low, high = 1e-9, 10.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        f = attenuated(middle)
        if expected_length(leap, f) > expected_length(adjacent, f):
            low = middle
        else:
            high = middle
    return (low + high) / 2
