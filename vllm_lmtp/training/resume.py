"""A run that goes on in a folder goes on as what it was: its settings are kept with its work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import write_json
from vllm_lmtp.training.devices import is_main

SETTINGS = "settings.json"
"""Of a run that trains, in the folder of its work."""
PLACES = ("model", "backbone", "teacher", "stage1", "dataset", "init")
"""Folders, which may have moved: their names count."""
FREE = ("output", "threads", "report_to")
"""Fields that change nothing of what is made."""


def must_be_as_begun(file: Path, run: Any, begun: bool, free: tuple[str, ...] = ()) -> None:
    """Write the settings of a run that begins, or compare with those that it was begun with.

    Args:
        file: keeps them. run: a dataclass of settings. begun: whether there is something to go on
            from; without the file it is taken as it is.
        free: fields, beside `FREE`, that it does not depend on.

    Raises:
        LMTPError: it was begun with other settings.
    """
    settings = json.loads(json.dumps(dataclasses.asdict(run), default=str))
    settings = {name: value for name, value in settings.items() if name not in (*FREE, *free)}
    settings |= {name: Path(settings[name]).name for name in PLACES if settings.get(name)}
    settings.get("optim", {}).pop("save_every", None)
    if not begun:
        if is_main():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, settings)
        return
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else settings
    for name in settings:
        if before.get(name) != settings[name]:
            raise refuse(
                str(file),
                name,
                found=f"{before.get(name)}, with which what lies there was begun",
                expected=f"{settings[name]}, as the file given now states",
                remedy="name another output folder, or delete this one to begin anew",
            )
