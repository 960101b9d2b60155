"""The kernels compile for real GPUs, whether or not there is one: Triton brings the assembler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytest.importorskip("triton")


SLOW = [pytest.param(capability, marks=pytest.mark.slow) for capability in (80, 86, 100, 120)]


@pytest.mark.parametrize("capability", [89, 90, *SLOW])
def test_kernels_fit_the_gpu(capability: int) -> None:
    """A process of its own, since this one may have Triton's interpreter in its place."""
    command = [sys.executable, "-m", "tests.worker.kernels.compiling", str(capability)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("fits") >= 28
    assert done.stdout.count("copying") == 12
