"""Writing a checkpoint folder so that it is either whole or untouched.

A full disk or a kill while saving must leave the previous checkpoint as it was: everything is
written to a folder beside the target, flushed, and only then renamed into place.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse

NEW, OLD = ".new", ".old"
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends without an error.

    After an error the empty folder is removed and `target` is what it was. Between the two
    renames at the end `target` is missing for an instant; a crash exactly there leaves the old
    folder under `<name>.old`, which the next save puts back before it starts.
    """
    target = Path(os.path.abspath(target))
    new, old = (target.with_name(f".{target.name}{suffix}") for suffix in (NEW, OLD))
    target.parent.mkdir(parents=True, exist_ok=True)
    if old.exists() and not target.exists():
        old.rename(target)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        for path in sorted(new.rglob("*")):
            if path.is_file():
                # safetensors makes files that only their owner can read.
                path.chmod(0o644)
                _flush(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def room_for(output: Path) -> Iterator[None]:
    """Turn what a full or write-protected disk raises in the block into a refusal.

    Raises:
        LMTPError: a file could not be written.
    """
    try:
        yield
    except Exception as error:
        # safetensors and torch.save have errors of their own for a write that failed.
        is_write = type(error).__name__ == "SafetensorError" or "PytorchStreamWriter" in str(error)
        if not is_write and not (isinstance(error, OSError) and error.errno in _NO_ROOM):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise refuse(
            str(output),
            "output",
            found=f"cannot be written ({reason})",
            expected="a place with room for the whole run",
            remedy="free the space and give the command again: it goes on where it stopped, and "
            "what was saved before is unchanged",
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON file, replacing the old one only when the new one is whole."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _flush(part)
    part.replace(path)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, from 1 on.

    Only a line feed ends a line: `str.splitlines` would also break JSON text at the Unicode line
    separators that it may hold unescaped.
    """
    with path.open(encoding="utf-8", newline="\n") as lines:
        yield from enumerate(lines, 1)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
