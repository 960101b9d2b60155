"""Finding text that goes round in circles, in tokens. Pure: integers only."""

from __future__ import annotations

from collections.abc import Sequence

PERIOD = 64
TIMES = 4
LENGTH = 24


def loop_start(tokens: Sequence[int]) -> int | None:
    """Where a text begins to repeat itself until its end, or None.

    A loop is an ending that repeats one phrase of at most PERIOD tokens at least TIMES times and
    is at least LENGTH tokens long; its last repetition may be cut short, as it is when a length
    limit ends it.

    Returns:
        The index of the first token of the shortest-phrased loop.
    """
    total = len(tokens)
    for period in range(1, min(PERIOD, total // TIMES) + 1):
        start = total - period
        while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1
        if total - start >= max(LENGTH, TIMES * period):
            return start
    return None
