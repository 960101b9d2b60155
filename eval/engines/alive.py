"""Engines or servers that are alive at once: as many as may be and as memory holds.

On a CPU each has weights and a cache of its own in the machine's memory, and a system that runs out
of it kills whichever it likes, which may be plain decoding's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import psutil

from vllm_lmtp.eval.prompts.asking import Progress

SPARE = 2**30
"""Bytes left free: engines grow a little under load, and a benchmark is a process, too."""


class Closable(Protocol):
    """What ends when it is told to."""

    def close(self) -> None:
        """End."""


Kept = TypeVar("Kept", bound=Closable)


def free_memory() -> int:
    """Bytes that the system could still give."""
    return int(psutil.virtual_memory().available)


class Alive(Generic[Kept]):
    """Starts what is asked for by name, once while there is room. Where there is none, the one used
    last is closed, since those who take turns need it last, and started anew when its turn comes.

    Args:
        most: how many at once; None for no limit but memory.
        progress: is told of starts, and of what memory was short for.
        free: bytes of free memory. What one takes is the most that starting one has taken so far.
    """

    def __init__(
        self, most: int | None, progress: Progress, free: Callable[[], int] = free_memory
    ) -> None:
        self._most, self._progress, self._free = most, progress, free
        self._taken = 0
        self._kept: dict[str, Kept] = {}

    def get(self, name: str, start: Callable[[], Kept]) -> Kept:
        """The one of that name, alive. What `start` raises is raised."""
        if (kept := self._kept.pop(name, None)) is None:
            self._make_room()
            self._progress(f"{name}: starting")
            before = self._free()
            kept = start()
            self._taken = max(self._taken, before - self._free())
        self._kept[name] = kept  # the last of the dict is the one used last
        return kept

    def drop(self, name: str) -> None:
        """Close one that failed, if it had started."""
        if (kept := self._kept.pop(name, None)) is not None:
            kept.close()

    def close(self) -> None:
        """End all of them."""
        while self._kept:
            self._kept.popitem()[1].close()

    def _make_room(self) -> None:
        while self._most is not None and len(self._kept) >= self._most:
            self._rest()
        while self._kept and self._free() < self._taken + SPARE:
            self._progress(f"{self._rest()}: closed until its turn, as memory is short")

    def _rest(self) -> str:
        name, last = self._kept.popitem()
        last.close()
        return name
