"""What the scheduler tells the workers of one step's drafts, beside how many it wants."""

from __future__ import annotations

from dataclasses import dataclass

CARRIED = "lmtp_plan"
"""Attribute of vLLM's `SchedulerOutput` that takes the plan to the workers; it is pickled along."""


@dataclass(frozen=True)
class Plan:
    """asked: what was wanted of the step that made the drafts verified in this one (choices.py).
    wanted: what this step is to make.
    price: chance of being right up to there that a place must have to be worth its row; None where
    that is not known yet.
    costs: of a request alone, tokens that could be had in the time that verifying 0, 1, ... rows
    takes; less than nothing where a kernel is faster with more rows. None beside others, for which
    rows cost the same each, and where it is not known yet.
    """

    asked: int
    wanted: int
    price: float | None
    costs: tuple[float, ...] | None = None

    def cut(self, drawn: bool) -> tuple[float, tuple[float, ...] | None]:
        """By what drafts are cut: the price of a row, and in its place the costs of all rows.

        Args:
            drawn: whether tokens of these drafts are drawn. By the price a place is verified or not
                for what was drawn before it; by the costs it would be for what was drawn there and
                behind it, too, and the output would drift from the target's distribution.
        """
        return self.price or 0.0, None if drawn else self.costs
