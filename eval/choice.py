"""Which draft length pays at which batch size: pure decisions on measured speeds.

A length is worth its risk only where its advantage over drafting nothing stands clear of the noise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

LEAST_GAIN = 0.03
"""What drafting must gain, beyond the noise, to be chosen."""
# From a median absolute deviation to a normal standard deviation, and from that of a mean to that
# of a median.
_TO_DEVIATION = 1.4826
_TO_MEDIAN = 1.2533
_ERRORS = 2.0

Range = tuple[int, int, int]


def lower_bound(ratios: Sequence[float]) -> float:
    """The median less two of its standard errors, which come from the median absolute deviation, so
    that one disturbed round decides nothing. Logarithms are taken, as a ratio is as far below 1
    at a half as it is above it at 2.

    Raises:
        ValueError: fewer than two ratios, which know nothing of noise.
    """
    if len(ratios) < 2:
        raise ValueError("noise needs at least two rounds")
    logarithms = [math.log(r) for r in ratios]
    middle = statistics.median(logarithms)
    deviation = statistics.median(abs(value - middle) for value in logarithms)
    error = _TO_MEDIAN * _TO_DEVIATION * deviation / math.sqrt(len(ratios))
    return math.exp(middle - _ERRORS * error)


def choose(ratios: Mapping[int, Sequence[float]], least_gain: float = LEAST_GAIN) -> int:
    """The draft length for one batch size.

    Args:
        ratios: of each draft length above 0, its speed over drafting nothing, round by round.
        least_gain: see LEAST_GAIN.

    Returns:
        The length with the best lower bound, the shorter of two that are alike; 0 where none gains
        `least_gain`.
    """
    bounds = {length: lower_bound(found) for length, found in ratios.items()}
    best = max(bounds, key=lambda length: (bounds[length], -length), default=0)
    return best if best and bounds[best] >= 1 + least_gain else 0


def schedule(chosen: Mapping[int, int]) -> list[Range]:
    """vLLM's `num_speculative_tokens_per_batch_size` from the lengths chosen at some batch sizes.

    A size between two measured ones takes the shorter of their lengths. The first range begins at
    1, as vLLM wants it; beyond the last one vLLM goes on with its length.

    Args:
        chosen: draft length by batch size; at least one.
    """
    ranges: list[Range] = []
    below: int | None = None
    for size in sorted(chosen):
        start = 1 if below is None else below + 1
        between = chosen[size] if below is None else min(chosen[below], chosen[size])
        for piece in ((start, size - 1, between), (size, size, chosen[size])):
            if piece[0] > piece[1]:
                continue
            if ranges and ranges[-1][2] == piece[2]:
                ranges[-1] = (ranges[-1][0], piece[1], piece[2])
            else:
                ranges.append(piece)
        below = size
    return ranges
