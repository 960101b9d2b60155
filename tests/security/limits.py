"""What a hostile folder may cost: some seconds at the very most, and little memory."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vllm_lmtp.errors import LMTPError, Refusal

SECONDS, MEMORY = 1.0, 2**30
HANGS = 5.0
"""Seconds of the wall after which something waits for what never comes."""


class HangError(BaseException):
    """Not an Exception, so that nothing on the way can take it for a fault of the folder."""


@contextmanager
def no_hang(seconds: float = HANGS) -> Iterator[None]:
    """Break off what takes longer, such as opening a pipe that nobody writes to."""

    def end(*_: object) -> None:
        raise HangError(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def little_memory(more: int = MEMORY) -> Iterator[None]:
    """Let this process take so many bytes more than it has, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refused_cheaply(read: Any, *args: Any, seconds: float = SECONDS) -> tuple[Refusal, ...]:
    """What a call refuses; it must do so in little time of the processor and little memory."""
    began = time.process_time()
    with pytest.raises(LMTPError) as error, no_hang(60), little_memory():
        read(*args)
    took = time.process_time() - began
    assert took < seconds, f"{took:.1f} s of the processor"
    for refusal in error.value.refusals:
        assert all((refusal.where, refusal.field, refusal.found, refusal.expected, refusal.remedy))
    assert len(str(error.value)) < 200_000
    return error.value.refusals
