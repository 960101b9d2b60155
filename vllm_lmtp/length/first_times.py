"""Which steps may take long for a reason that does not come again.

The libraries of a processor choose or compile a kernel for each number of rows they meet: 10 ms on
two cores, beside steps of 2 ms. Such a step can only say that its kind is cheaper than thought.
"""

from __future__ import annotations

IN_A_ROW = 6
"""Steps with drafts that may be set aside one after another; where shapes never repeat, what is
done for each new one is what drafting costs."""


class FirstTimes:
    """The shapes of one engine's steps."""

    def __init__(self) -> None:
        self._rows: set[int] = set()
        self._drafting: set[int] = set()
        self._in_a_row = 0

    def note(self, num_requests: int, rows: int, drafting: bool) -> bool:
        """Take note of a step, and say whether it may have taken long for once.

        Args:
            rows: draft tokens verified. drafting: whether drafts were made.
        """
        new = num_requests + rows not in self._rows
        self._rows.add(num_requests + rows)
        if not rows and not drafting:
            return new
        if drafting and num_requests not in self._drafting:
            self._drafting.add(num_requests)
            new = True
        self._in_a_row = self._in_a_row + 1 if new else 0
        return new and self._in_a_row <= IN_A_ROW
