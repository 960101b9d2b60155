"""A checkpoint without its scorer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def without_scorer(folder: Path, output: Path) -> Path:
    """Copy a folder of one weight file, or of one and its scorer's, and leave the scorer out."""
    shutil.copytree(folder, output, ignore=shutil.ignore_patterns("scorer*"))
    weights = output / "model.safetensors"
    kept = {n: t for n, t in load_file(weights).items() if not n.startswith("scorer.")}
    save_file(kept, str(weights), metadata={"format": "pt"})
    config = json.loads((output / "config.json").read_text())
    config.pop("scorer", None)
    (output / "config.json").write_text(json.dumps(config))
    return output
