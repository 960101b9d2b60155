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
    """

    asked: int
    wanted: int
    price: float | None
