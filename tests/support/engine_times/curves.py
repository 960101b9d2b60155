"""Curves of step time: memory-bound, compute-bound, with a knee, dear drafting, one measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.support.engine_times.steps import Time

LENGTHS = (0, 1, 2, 3, 4, 6)


def memory_bound(requests: int, rows: int, wanted: int, at: float) -> float:
    """10 ms whatever is computed, nearly; drafting 5 % and 1 % a draft."""
    return 1e-3 * (10 * (1 + 0.003 * (requests + rows)) + (0.5 + 0.1 * wanted) * (wanted > 0))


def compute_bound(requests: int, rows: int, wanted: int, at: float) -> float:
    """Every row costs 1.5 ms, and drafting 4 to 7 ms."""
    return 1e-3 * (1.5 * (requests + rows) + 5 + (4 + 0.5 * wanted) * (wanted > 0))


def knee(requests: int, rows: int, wanted: int, at: float) -> float:
    """20 ms up to 40 rows in all, in proportion from there on."""
    return 1e-3 * (
        20 * max(1.0, (requests + rows) / 40) + 0.1 * requests + (1 + 0.2 * wanted) * (wanted > 0)
    )


def dear_drafting(requests: int, rows: int, wanted: int, at: float) -> float:
    """Rows are free, a draft takes nearly as long as a step of 20 ms."""
    return 1e-3 * (20 + 0.02 * (requests + rows) + (15 + wanted) * (wanted > 0))


def two_cores(requests: int, rows: int, wanted: int, at: float) -> float:
    """As measured with SmolLM2 in float32: a plain step 47 ms, a row more 3 ms alone and 1.5 among
    many, drafting 7.8."""
    row = 1.5 + 1.5 * max(0, 16 - requests) / 15
    return 1e-3 * (45.5 + 1.5 * requests + row * rows + 7.8 * (wanted > 0))


def first_row(requests: int, rows: int, wanted: int, at: float) -> float:
    """As measured with SmolLM2 on a slower two cores: a second row alone costs a fifth of a step,
    and those after it little; heads a tenth."""
    second = 17 * (requests == 1 and rows > 0)
    return 1e-3 * (75 + 16 * requests + second + 2 * rows + 9 * (wanted > 0) + 0.5 * wanted)


CURVES: dict[str, Time] = {
    "memory-bound": memory_bound,
    "compute-bound": compute_bound,
    "knee": knee,
    "dear drafting": dear_drafting,
    "two cores": two_cores,
    "first row": first_row,
}


def geometric(share: float) -> Callable[[float], Sequence[float]]:
    """Each place accepted as often after the one before it."""
    return lambda at: [share] * LENGTHS[-1]


def falling(at: float) -> Sequence[float]:
    """Heads as shipped: good at first, then worse place by place."""
    return [0.6, 0.45, 0.35, 0.3, 0.25, 0.2]
