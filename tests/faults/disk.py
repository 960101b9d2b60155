"""A disk that is full, simulated: no file system is needed for it, nor the right to mount one."""

from __future__ import annotations

import builtins
import errno
import io
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

FULL = OSError(errno.ENOSPC, "No space left on device")


class FullAfterHalf:
    """A file opened for writing that takes half of what is written to it first, and no more."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        raise FULL

    def fileno(self) -> int:
        raise FULL  # or a copy by the kernel would pass by

    def __enter__(self) -> FullAfterHalf:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Count:
    """files: opened for writing so far. failed: whether one of them met the full disk."""

    def __init__(self) -> None:
        self.files, self.failed = 0, False


@contextmanager
def full_at(number: int, under: Path) -> Iterator[Count]:
    """Let the disk be full in the middle of the file that is the `number`-th, from 0 on, to be
    opened for writing by Python under a folder."""
    count, opened = Count(), builtins.open

    def watched(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        found = opened(file, mode, *args, **kwargs)
        named = isinstance(file, str | Path) and Path(file).absolute().is_relative_to(under)
        if not named or not set(mode) & set("wax+"):
            return found
        count.files += 1
        if count.files - 1 != number:
            return found
        count.failed = True
        return FullAfterHalf(found)

    with mock.patch.object(builtins, "open", watched), mock.patch.object(io, "open", watched):
        yield count


@contextmanager
def full_beyond(limit: int) -> Iterator[None]:
    """Let no file grow beyond `limit` bytes, by whomever in this process or its children it is
    written; libraries that are not written in Python fail half-way too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


def content(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by its name there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
