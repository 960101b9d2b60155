"""What looking around may cost: an account in seconds, so that the loss has a bound.

Every step pays a share of its time in; a look is taken only if what it is feared to cost lies
there, and what it did cost is taken out once it is known. A look that gains pays itself back, so
where drafts pay looks are many, and where they never do they are as rare as the share says.
"""

from __future__ import annotations

SHARE = 0.006
"""Part of all time that looks may cost in the long run."""
SAVED = 0.05
"""Seconds that may be saved up, or what a look costs that is wanted where that is more."""
START, SIZE = (12.0, 0.3), (2.0, 0.05)
"""Plain steps' time, and seconds at most, given when the first size of batch is met, and any other.
"""
START_FADES = 2.0
"""Seconds in which what was given and not spent fades: it is for the first seconds only."""


class Budget:
    """The account; it starts empty."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.paid_in = 0.0
        self.spent = 0.0
        self._most = SAVED

    def open_size(self, plain: float, first: bool) -> None:
        """A size of batch is met whose plain step takes so long."""
        steps, most = START if first else SIZE
        given = min(plain * steps, most)
        self.seconds += given
        self.paid_in += given

    def pay_in(self, seconds: float) -> None:
        """A step took so long."""
        over = max(0.0, self.seconds - self._most)
        self.seconds -= over * min(1.0, seconds / START_FADES)
        paid = min(SHARE * seconds, max(0.0, self._most - self.seconds))
        self.seconds += paid
        self.paid_in += paid

    def allows(self, seconds: float) -> bool:
        """Whether a look that is feared to cost so much may be taken."""
        return seconds <= self.seconds

    def save_for(self, seconds: float) -> None:
        """A look that is wanted, the cheapest of its kind, is feared to cost so much."""
        self._most = max(SAVED, 1.1 * seconds)

    def settle(self, seconds: float) -> None:
        """A look cost so much; less than nothing if it gained."""
        self.spent += seconds
        self.seconds = min(self.seconds - seconds, max(self.seconds, self._most))
