"""Reading a JSON file that somebody else may have written: never a pipe, never one too large."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse

MOST_BYTES = 32 * 10**6
"""The index of a model of 200,000 tensors has 20 MB; what is far larger would only fill memory."""


def read_json(path: Path, remedy: str, expected: str = "a JSON object") -> dict[str, Any]:
    """The object that a file holds.

    Args:
        remedy, expected: of the refusal.

    Raises:
        LMTPError: no regular file, too large, not JSON, or another value than an object.
    """
    try:
        if not os.path.isfile(path):  # to open a pipe would be to wait for ever
            raise OSError("no such file, or not a regular one")
        if (size := os.path.getsize(path)) > MOST_BYTES:
            raise OSError(f"{size} bytes, and at most {MOST_BYTES} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        found = f"unreadable JSON ({error})"
        raise refuse(str(path), "content", found=found, expected=expected, remedy=remedy) from error
    if not isinstance(content, dict):
        found = f"a JSON {type(content).__name__}"
        raise refuse(str(path), "content", found=found, expected=expected, remedy=remedy)
    return content
