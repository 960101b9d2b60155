"""What the engine tells of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST = 600.0
"""Seconds beyond which what a clock says is no step, but a machine that stood still or a clock that
was set."""


def believed(seconds: float | None) -> float:
    """What a clock said a step took; 0 where no step takes that, a negative time or none at all."""
    return seconds if seconds is not None and 0 < seconds <= LONGEST else 0.0


@dataclass(frozen=True)
class Step:
    """One step of the engine, told in the order in which steps were run.

    seconds: wall time since the output before this one. None where it says nothing of the step,
        since the pipeline had run dry in between.
    num_requests: requests that decoded in it.
    rows: draft tokens verified in it, over all requests; the token each request has anyway is none.
    asked: what was wanted of the step that made the drafts verified here, a choice (choices.py).
    wanted: what this step was asked to make; what `Controller.choose` said.
    judged: of each place, how many of the drafts verified here reached it; may be short of places.
    accepted: of each place, how many requests had it and all places before it accepted.
    prefill: whether any prompt was computed in it. Its time is another thing then.
    by_text: judged and accepted of drafts that had been left to the texts alone, as far as those of
        heads and texts show: at least so many. None where they show nothing.
    """

    seconds: float | None
    num_requests: int
    rows: int
    asked: int
    wanted: int
    judged: Sequence[int] = ()
    accepted: Sequence[int] = ()
    prefill: bool = False
    by_text: tuple[Sequence[int], Sequence[int]] | None = None
