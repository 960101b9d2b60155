"""Stages in boxes of time: what each ended with, what is left running, what is done again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vllm_lmtp.errors import LMTPError
from vllm_lmtp.eval.gpu.bundle import check
from vllm_lmtp.eval.gpu.stages import LEAST, Command, Stage, run_stages


def python(*lines: str) -> Command:
    return [sys.executable, "-c", "\n".join(lines)]


def stage(name: str, *commands: Command, share: float = 0.5) -> Stage:
    return Stage(name, share, lambda folder, seconds: commands)


def run(stages: Sequence[Stage], out: Path, seconds: float = 60) -> dict[str, Any]:
    found = run_stages(stages, out, seconds, say=lambda _: None)
    assert json.loads((out / "stages.json").read_text()) == found
    return found


def test_a_stage_that_fails_leaves_the_next(tmp_path: Path) -> None:
    fails = python("raise ValueError('no such card')")
    found = run([stage("first", fails, python("print('on')")), stage("next", python())], tmp_path)
    assert found["first"]["state"] == "failed"
    assert found["first"]["commands"][0]["cause"] == "ValueError: no such card"
    assert (tmp_path / "first" / "1.log").read_text() == "on\n"
    assert found["next"]["state"] == "done"


def test_only_what_is_missing_is_done_again(tmp_path: Path) -> None:
    count = python("open('count', 'a').write('x')")
    counted = [sys.executable, "-c", count[2].replace("count'", f"{tmp_path / 'count'}'")]
    flag = tmp_path / "flag"
    once = python(f"import pathlib; assert pathlib.Path({str(flag)!r}).exists()")
    stages = [stage("good", counted), stage("bad", once)]
    assert run(stages, tmp_path)["bad"]["state"] == "failed"
    flag.touch()
    assert run(stages, tmp_path)["bad"]["state"] == "done"
    assert (tmp_path / "count").read_text() == "x"


def test_children_of_a_stage_end_with_its_time(tmp_path: Path) -> None:
    """As engines do not, whose parent was killed."""
    pid = tmp_path / "pid"
    child = [sys.executable, "-c", "import time; time.sleep(300)"]
    parent = python(
        "import pathlib, signal, subprocess, time",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        f"child = subprocess.Popen({child!r})",
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))",
        "time.sleep(300)",
    )
    start = time.monotonic()
    found = run([stage("long", parent, share=0.1), stage("next", python())], tmp_path, 130)
    assert found["long"]["state"] == "out of time"
    assert found["next"]["state"] == "done"
    assert time.monotonic() - start < 60
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", pid.read_text()], capture_output=True, text=True, check=False
    ).stdout.strip()
    assert not state or state.startswith("Z")


def test_nothing_is_begun_without_time_for_it(tmp_path: Path) -> None:
    found = run([stage("one", python())], tmp_path, LEAST / 2)
    assert found == {"one": {"state": "not begun"}}


def packed(site: Path, source: str) -> Path:
    for name in ("vllm/_C_stable_libtorch.abi3.so", "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).touch()
    (site / "vllm" / "__init__.py").touch()
    (site / "vllm_lmtp").mkdir()
    (site / "vllm_lmtp" / "__init__.py").write_text(source)
    return site


def test_a_bundle_has_all_that_is_imported(tmp_path: Path) -> None:
    source = "import json\ndef f():\n    from vllm import x\n    import torch.nn\n"
    assert check(packed(tmp_path, source), ["torch"]) == 1


def test_what_a_bundle_lacks_is_named(tmp_path: Path) -> None:
    site = packed(tmp_path, "import numpy\nfrom vllm.config import x\n")
    (site / "vllm" / "_C_stable_libtorch.abi3.so").unlink()
    with pytest.raises(LMTPError) as caught:
        check(site, [])
    named = [refusal.field for refusal in caught.value.refusals]
    assert named == ["vllm/_C_stable_libtorch.abi3.so", "numpy", "vllm.config"]
