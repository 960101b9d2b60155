"""A small Kalman filter that outliers cannot pull far. Plain Python: a dozen numbers at most.

An observation is a sum of few unknowns: `[(which, weight), ...]`. Its weight falls once it lies
further off than `FAR` standard errors, and faster than its distance grows, so that a step ten times
too long moves what is known less than one a little too long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Sum = Sequence[tuple[int, float]]
FAR = 2.5
"""Standard errors beyond which an observation loses weight."""


class Filter:
    """Unknowns, what is known of them, and how well.

    Args:
        mean: [N]. spread: [N][N], their covariance; both are taken over.
    """

    def __init__(self, mean: list[float], spread: list[list[float]]) -> None:
        self.mean = mean
        self.spread = spread

    def value(self, terms: Sum) -> float:
        """What is expected of a sum."""
        mean = self.mean
        return sum(weight * mean[i] for i, weight in terms)

    def variance(self, terms: Sum) -> float:
        """Of that sum, the noise of an observation not included."""
        return self.covariance(terms, terms)

    def covariance(self, one: Sum, other: Sum) -> float:
        """Of two sums. Asked for at every choice, so it is a plain loop."""
        total = 0.0
        for i, a in one:
            row = self.spread[i]
            for j, b in other:
                total += a * b * row[j]
        return total

    def update(self, terms: Sum, observed: float, noise: float) -> tuple[float, float]:
        """Learn from one observation.

        Args:
            noise: its variance.

        Returns:
            How far off it was, and by how many standard errors.
        """
        together = [0.0] * len(self.mean)
        for i, weight in terms:
            row = self.spread[i]
            together = [t + weight * s for t, s in zip(together, row, strict=True)]
        total = sum(weight * together[i] for i, weight in terms) + noise
        off = observed - self.value(terms)
        errors = off / math.sqrt(total)
        if abs(errors) > FAR:
            total *= (errors / FAR) ** 2
        step = off / total
        self.mean = [m + step * t for m, t in zip(self.mean, together, strict=True)]
        for row, t in zip(self.spread, together, strict=True):
            gain = t / total
            if gain:
                row[:] = [s - gain * u for s, u in zip(row, together, strict=True)]
        return off, errors
