"""Gives each live request a slot of the history. Runner V2 does this itself; V1 does not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


class SlotTable:
    """Request id -> slot.

    Args:
        num_slots: at least the largest batch.
    """

    def __init__(self, num_slots: int) -> None:
        self._slots: dict[str, int] = {}
        self._free = list(range(num_slots - 1, -1, -1))

    def forget(self, req_ids: Iterable[str]) -> None:
        """Free the slots of requests that ended, were preempted, or start anew."""
        for req_id in req_ids:
            slot = self._slots.pop(req_id, None)
            if slot is not None:
                self._free.append(slot)

    def assign(self, batch: Sequence[str], live: Collection[str]) -> tuple[list[int], list[int]]:
        """Slots of a batch's requests.

        Args:
            batch: request ids in batch order.
            live: ids of all requests the runner still knows.

        Returns:
            (slots in batch order, those among them that are newly given and must be reset).
        """
        new = [req_id for req_id in batch if req_id not in self._slots]
        if len(new) > len(self._free):
            self.forget([r for r in self._slots if r not in live])
        if len(new) > len(self._free):
            # Only drafts are at stake: a request that comes back is cold for one step.
            waiting = [r for r in self._slots if r not in set(batch)]
            self.forget(waiting[: len(new) - len(self._free)])
        for req_id in new:
            self._slots[req_id] = self._free.pop()
        return [self._slots[r] for r in batch], [self._slots[r] for r in new]
