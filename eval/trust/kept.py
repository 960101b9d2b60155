"""Rows of a long run in a file, so that one that was stopped goes on where it was.

Each row stands under a key that holds whatever it depends on. A line that was cut off is made
again, and rows under other keys are of other runs and stay.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Kept:
    """Rows by key, in memory and, where there is a file, in it.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._rows: dict[str, Any] = {}
        text = file.read_text(encoding="utf-8") if file is not None and file.exists() else ""
        for line in text.splitlines():
            try:
                found = json.loads(line)
                self._rows[found["key"]] = found["row"]
            except (ValueError, KeyError, TypeError):
                continue
        if file is not None and text and not text.endswith("\n"):
            self._write("\n")

    def get(self, key: str) -> Any:
        """The row, None if there is none."""
        return self._rows.get(key)

    def put(self, key: str, row: Any) -> None:
        """Keep a row."""
        self._rows[key] = row
        self._write(json.dumps({"key": key, "row": row}) + "\n")

    def _write(self, text: str) -> None:
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as handle:
                handle.write(text)
