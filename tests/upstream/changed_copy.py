"""A copy of the installed vLLM with docs/upstream/registry.diff applied to it.

Only the files that the diff touches are copied; whatever else the package has is linked to.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePosixPath

DIFF = Path(__file__).parents[2] / "docs" / "upstream" / "registry.diff"
ENTRY_POINT = "lmtp_registered"
"""Name of the tests' plugin, for VLLM_PLUGINS."""


def installed() -> Path:
    """The folder that holds the installed package."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.parent


def touched(diff: str) -> set[PurePosixPath]:
    """Files that a diff changes or adds, without their first folder."""
    names = re.findall(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE)
    return {PurePosixPath(name) for name in names}


def apply(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `patch` with the diff on the package in a folder."""
    command = ["patch", "-p1", "--fuzz=0", "--batch", *options, "-d", str(folder), "-i", str(DIFF)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def make_copy(folder: Path) -> Path:
    """Make the copy, and the entry point of the tests' plugin beside it; returns the folder."""
    package = PurePosixPath("vllm")
    _mirror(installed(), folder, package, touched(DIFF.read_text()))
    done = apply(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    metadata = folder / f"{ENTRY_POINT}-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {ENTRY_POINT}\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        f"[vllm.general_plugins]\n{ENTRY_POINT} = tests.upstream.plugin:register\n"
    )
    return folder


def _mirror(
    source: Path, target: Path, name: PurePosixPath, real: AbstractSet[PurePosixPath]
) -> None:
    """Folders above what must be real are real, too, but for what Python compiled in them."""
    (target / name).mkdir(parents=True)
    above = {parent for path in real for parent in path.parents}
    for entry in (source / name).iterdir():
        here = name / entry.name
        if here in above:
            _mirror(source, target, here, real)
        elif here in real:
            shutil.copy2(entry, target / here)
        elif entry.name != "__pycache__":
            (target / here).symlink_to(entry)
