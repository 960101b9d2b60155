"""What a controller knows in a file: of which engine it is, so that no other one believes it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.length.knowledge import REMEDY, VERSION, read

KIND = "vllm-lmtp draft length"


@dataclass(frozen=True)
class Saved:
    """engine: what it was learnt on, by name. state: of `Controller.state`, perhaps of another
    version's."""

    engine: Mapping[str, str]
    state: Mapping[str, Any]


def read_file(path: Path) -> Saved | None:
    """What a file holds; None where there is none yet.

    Raises:
        LMTPError: it cannot be read, or holds something else.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(
            str(path), "the file", found=str(error), expected="readable text", remedy=REMEDY
        ) from None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refuse(
            str(path), "the whole", found=f"no JSON: {error}", expected="JSON", remedy=REMEDY
        ) from None
    whole: dict[str, Any] = found if isinstance(found, dict) else {}
    if whole.get("kind") != KIND:
        kind, remedy = repr(whole.get("kind"))[:80], "name another file"
        raise refuse(str(path), "kind", found=kind, expected=repr(KIND), remedy=remedy)
    engine, state = whole.get("engine"), whole.get("state")
    if not isinstance(engine, dict) or not all(isinstance(v, str) for v in engine.values()):
        shown = repr(engine)[:80]
        raise refuse(str(path), "engine", found=shown, expected="names", remedy=REMEDY)
    if not isinstance(state, dict):
        shown = repr(state)[:80]
        raise refuse(str(path), "state", found=shown, expected="a dictionary", remedy=REMEDY)
    if isinstance(state.get("version"), int) and state["version"] != VERSION:
        return Saved(engine, state)  # in other words than ours, which is no fault of the file
    lengths = state.get("lengths")
    good = isinstance(lengths, list) and lengths and all(type(m) is int for m in lengths)
    read(state, lengths if good and lengths else [0], f"{path}: state")
    return Saved(engine, state)


def write_file(path: Path, saved: Saved) -> None:
    """Replace the file as a whole, so that whoever reads it meanwhile sees one or the other.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    whole = {"kind": KIND, "engine": dict(saved.engine), "state": dict(saved.state)}
    try:
        part.write_text(json.dumps(whole, indent=1) + "\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """In words, in what two engines differ."""
    return [
        f"{name} {theirs.get(name, 'unnamed')!r}, here {value!r}"
        for name, value in ours.items()
        if theirs.get(name) != value
    ]
