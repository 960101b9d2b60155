"""How far stated probabilities can be relied on, and a line that mends them: pure maths.

Shapes: N observations of one place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Observations whose stated probabilities are close together. stated: their mean. seen: the
    share that came true. count: how many they are."""

    stated: float
    seen: float
    count: int


def fit_line(odds: Tensor, right: Tensor) -> tuple[float, float]:
    """Slope and intercept that turn stated log-odds into those with which things come true.

    The likeliest ones (Platt), held to (1, 0) by the weight of one observation, so that few of them
    do not fit themselves; with none it is the answer. The slope is above 0.

    Args:
        odds: [N] finite. right: [N] bool.
    """
    x, y = odds.double(), right.double()
    found = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log slope, intercept
    optimiser = torch.optim.LBFGS(
        [found], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        line = found[0].exp() * x + found[1]
        fault = binary_cross_entropy_with_logits(line, y, reduction="sum")
        total = (fault + 0.5 * (found**2).sum()) / (len(x) + 1)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return math.exp(float(found[0].detach())), float(found[1].detach())


def reliability(stated: Tensor, right: Tensor) -> list[Bin]:
    """Observations in `BINS` equal parts of 0..1 by the probability stated; empty ones left out.

    Args:
        stated: [N] in 0..1. right: [N] bool.
    """
    place = (stated * BINS).long().clamp(0, BINS - 1)
    bins = []
    for number in range(BINS):
        here = place == number
        if here.any():
            p, seen = stated[here].double().mean(), right[here].double().mean()
            bins.append(Bin(float(p), float(seen), int(here.sum())))
    return bins


def expected_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error: |stated - seen|, averaged over observations; 0 of none."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.stated - b.seen) for b in bins) / max(total, 1)
