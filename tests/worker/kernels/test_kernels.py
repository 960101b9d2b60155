"""Runs the kernels' cases: interpreted on any machine, and compiled where there is a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
INTERPRETER = ROOT / "tests" / "engine" / "interpreter"

pytest.importorskip("triton")


@pytest.mark.parametrize("interpreted", [True, False])
def test_kernels_equal_plain_torch(interpreted: bool) -> None:
    if not interpreted and not torch.cuda.is_available():
        pytest.skip("compiled kernels need a GPU")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = str(ROOT)
    if interpreted:
        env |= {
            "TRITON_INTERPRET": "1",
            "PYTHONPATH": f"{INTERPRETER}{os.pathsep}{ROOT}",
            "CUDA_VISIBLE_DEVICES": "",
        }
    names = ("cases.py", "copying_cases.py", "heads_cases.py")
    cases = [str(Path(__file__).with_name(name)) for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *cases]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
