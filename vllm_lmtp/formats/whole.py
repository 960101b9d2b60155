"""Writing a checkpoint folder so that it is either whole or untouched.

A full disk or a kill while saving must leave the previous checkpoint as it was: everything is
written to a folder beside the target, flushed, and only then renamed into place.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import LMTPError, refuse

NEW, OLD = ".new", ".old"
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_NO_FOLDER = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
"""What stands where a folder should, or the other way about."""
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers, which are written in Rust, word an error of the system."""


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
        reason = no_room(error)
        if reason is None:
            raise
        raise refuse(
            str(output),
            "output",
            found=f"cannot be written ({reason})",
            expected="a place with room for the whole run",
            remedy="free the space, or name another place, and give the command again: it goes on "
            "where it stopped, and what was saved before is unchanged",
        ) from error


def no_room(error: BaseException) -> str | None:
    """Why a write failed, where an error says that it was for want of room or of leave."""
    said = str(error)
    if isinstance(error, LMTPError):  # which may quote one
        return None
    if isinstance(error, OSError):
        known = error.errno in (*_NO_ROOM, *_NO_FOLDER)
        return (error.strerror or said) if known else None
    found = _OS_ERROR.search(said)
    torch_save = "PytorchStreamWriter" in said or "enforce fail at inline_container" in said
    if torch_save or (found and int(found[1]) in _NO_ROOM):
        return said.splitlines()[0]
    return None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the name of a file that becomes `path` when the block ends without an error.

    After an error it is removed, and `path` is what it was.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        _flush(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write one UTF-8 file, replacing the old one only when the new one is whole."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """As `write_text`, of an object."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


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
