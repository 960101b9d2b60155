"""A checkpoint without its scorer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def without_scorer(folder: Path, output: Path) -> Path:
    """Copy a folder whose scorer is a weight file of its own, and leave the scorer out."""
    shutil.copytree(folder, output, ignore=shutil.ignore_patterns("scorer*"))
    config = json.loads((output / "config.json").read_text())
    config.pop("scorer", None)
    (output / "config.json").write_text(json.dumps(config))
    return output
