"""A history that leaves the rows of steps without drafts lying until a draft needs them.

Under load a schedule may want no drafts for thousands of steps. Joining each step's rows with the
stored tails would then be all that drafting costs, and for nothing: only the newest k - 1 rows of a
request are ever read again. So such a step merely sets its newest rows aside, and the next step
that drafts joins what was set aside in the order in which it came.

Of more steps than `MOST` the oldest is forgotten. A request that was in none of those kept finds
that its tail does not end where it goes on, and drafts cold: positions are checked as ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vllm_lmtp.method.history import History, Rows, one_each

MOST = 8
"""Steps kept. All requests that run are in nearly every step; pipeline stages take turns."""


@dataclass(frozen=True)
class _Step:
    """rows: [R, k - 1, H], the newest of each request, oldest first; those that a request did not
    have are any. kept, start, slots: as in `History.advance`. resets: slots that were reset after
    this step and before the next one."""

    rows: torch.Tensor
    kept: torch.Tensor
    start: torch.Tensor
    slots: torch.Tensor
    resets: list[int] = field(default_factory=list)

    def arguments(self) -> tuple[torch.Tensor, ...]:
        """Of `History.advance`."""
        count, most, size = self.rows.shape
        few = self.kept.clamp(max=most)
        ends = most * torch.arange(1, count + 1, device=few.device)
        rows = self.rows.reshape(-1, size)
        return rows, ends - few, few, self.start + self.kept - few, self.slots


@dataclass(frozen=True)
class _OneEach:
    """A step as `History.defer_one_each` was told of it; resets: as above."""

    rows: torch.Tensor
    start: Sequence[int]
    slots: Sequence[int]
    resets: list[int] = field(default_factory=list)

    def arguments(self) -> tuple[torch.Tensor, ...]:
        """Of `History.advance`."""
        return one_each(self.rows, self.start, self.slots)


class LazyHistory(History):
    """As `History`, which it equals wherever a draft looks."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._aside: deque[_Step | _OneEach] = deque()

    def reset(self, slot: int) -> None:
        """As `History.reset`, after what was set aside before it."""
        if self._aside:
            self._aside[-1].resets.append(slot)
        else:
            super().reset(slot)

    def defer(
        self,
        hidden: torch.Tensor,
        first: torch.Tensor,
        kept: torch.Tensor,
        start: torch.Tensor,
        slots: torch.Tensor,
    ) -> None:
        """Set a step's newest rows aside; arguments as in `advance`, and kept by reference but for
        `hidden`, which runners write over."""
        if self.stride == 1:
            return
        newest = (first + kept).unsqueeze(1) - self.lags[:-1]  # one behind each lag from k - 2 on
        self._set_aside(_Step(hidden[newest.clamp_(min=0)], kept, start, slots))

    def defer_one_each(
        self, rows: torch.Tensor, start: Sequence[int], slots: Sequence[int]
    ) -> None:
        """As `History.defer_one_each`; all is kept by reference."""
        if self.stride > 1:
            self._set_aside(_OneEach(rows, start, slots))

    def advance(
        self,
        hidden: torch.Tensor,
        first: torch.Tensor,
        kept: torch.Tensor,
        start: torch.Tensor,
        slots: torch.Tensor,
    ) -> Rows:
        """As `History.advance`."""
        self.catch_up()
        return super().advance(hidden, first, kept, start, slots)

    def catch_up(self) -> None:
        """Join what was set aside. A graph of `advance` does not know of it, so call this first."""
        while self._aside:
            step = self._aside.popleft()
            super().advance(*step.arguments())
            for slot in step.resets:
                super().reset(slot)

    def _set_aside(self, step: _Step | _OneEach) -> None:
        if len(self._aside) == MOST:
            for slot in self._aside.popleft().resets:
                super().reset(slot)
        self._aside.append(step)
