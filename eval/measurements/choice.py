"""Which draft length pays at which batch size: pure decisions on measured speeds.

A length is worth its risk only where its advantage over drafting nothing stands clear of the noise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

LEAST_GAIN = 0.03
"""What drafting must gain, beyond the noise, to be chosen."""
STUDENT = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
"""Student's t by degrees of freedom, 1 and up, which noise exceeds one time in twenty."""

Range = tuple[int, int, int]
Ratios = Mapping[int, Sequence[float]]


def lower_bound(ratios: Sequence[float]) -> float:
    """What the ratios' mean is at least, nineteen times in twenty, by Student's t.

    Few rounds know little of their noise, and the bound allows for that: measures that look past
    a disturbed round call three rounds quiet whenever two of them happen to agree. Logarithms are
    taken, as a ratio is as far below 1 at a half as it is above it at 2.

    Raises:
        ValueError: fewer than two ratios, which know nothing of noise.
    """
    if len(ratios) < 2:
        raise ValueError("noise needs at least two rounds")
    logarithms = [math.log(r) for r in ratios]
    error = statistics.stdev(logarithms) / math.sqrt(len(ratios))
    quantile = STUDENT[min(len(ratios) - 1, len(STUDENT)) - 1]
    return math.exp(statistics.fmean(logarithms) - quantile * error)


def choose(ratios: Ratios, least_gain: float = LEAST_GAIN) -> int:
    """The draft length for one batch size.

    Args:
        ratios: of each draft length above 0, its speed over drafting nothing, round by round.
        least_gain: see LEAST_GAIN.

    Returns:
        The length with the best lower bound, the shorter of two that are alike; 0 where none gains
        `least_gain`.
    """
    return _best(ratios, least_gain)[0]


def choose_cut(
    by_cut: Mapping[float, Mapping[int, Ratios]], least_gain: float = LEAST_GAIN
) -> tuple[float, dict[int, int]]:
    """The confidence cut, one for all batch sizes, and the draft length of each that goes with it.

    Args:
        by_cut: of each cut and batch size, what `choose` takes.

    Returns:
        The cut whose lower bounds, of the lengths chosen with it, have the best geometric mean over
        the batch sizes, and the smaller of two that are alike; and the lengths by batch size.
    """
    found = {
        cut: {size: _best(ratios, least_gain) for size, ratios in sizes.items()}
        for cut, sizes in by_cut.items()
    }
    gains = {cut: sum(math.log(gain) for _, gain in best.values()) for cut, best in found.items()}
    cut = max(found, key=lambda cut: (gains[cut], -cut))
    return cut, {size: length for size, (length, _) in found[cut].items()}


def _best(ratios: Ratios, least_gain: float) -> tuple[int, float]:
    """The length chosen and its lower bound, which is 1 for drafting nothing."""
    bounds = {length: lower_bound(found) for length, found in ratios.items()}
    best = max(bounds, key=lambda length: (bounds[length], -length), default=0)
    return (best, bounds[best]) if best and bounds[best] >= 1 + least_gain else (0, 1.0)


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
