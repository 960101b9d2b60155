"""How long one waits until a kind of draft that was not seen is looked at again.

What it was worth may have been chance, or of a text that has changed since. The wait grows with
each look that changed nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

SECONDS, STEPS = 0.3, 30.0
"""The first wait: so many seconds or, where plain steps are short, so many of them. An engine of
2 ms a step has seen as much in 60 ms as one of 10 ms in 0.3 s."""
MOST, GROWS, MANY = 13.0, 1.5, 4
"""The longest wait in first ones, and how much longer each is after a look of so many requests. One
of a single request is one try of a first draft, which may fail though four of five are right."""


@dataclass
class Patience:
    """seen: seconds since the controller began, when the kind was seen last. waits: how long from
    then on, in first waits."""

    seen: float = 0.0
    waits: float = 1.0

    def is_over(self, now: float, plain: float) -> bool:
        """Whether the kind was not seen for so long; plain: seconds of a plain step."""
        return now - self.seen > self.waits * min(SECONDS, STEPS * plain)

    def grows(self, requests: int) -> None:
        """A look of so many requests is taken since it is over."""
        self.waits = min(MOST, self.waits * GROWS ** min(1.0, requests / MANY))

    def ends(self) -> None:
        """There is reason to look."""
        self.waits = 1.0
