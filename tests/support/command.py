"""Runs the command as a person would, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Result(NamedTuple):
    code: int
    stdout: str
    stderr: str

    @property
    def value(self) -> Any:
        """stdout as the one JSON value it must be."""
        return json.loads(self.stdout)


def vllm_lmtp(*words: str | Path, **env: str) -> Result:
    done = subprocess.run(
        [sys.executable, "-m", "vllm_lmtp.cli", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | env,
        capture_output=True,
        text=True,
    )
    return Result(done.returncode, done.stdout, done.stderr)
