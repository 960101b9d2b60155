"""The one command for a GPU, rehearsed with tiny sizes on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.client import ROOT, environment

STAGES = ("smoke", "speed", "exactness", "dimensions")


def rehearse(out: Path, minutes: float, *stages: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vllm_lmtp.eval.gpu.all", "--rehearse", "--out", str(out)]
    command += ["--minutes", str(minutes), "--stages", *stages]
    env = environment(1, processes=False)
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.engine
@pytest.mark.timeout(1200)
def test_everything_is_measured_in_order_and_once(tmp_path: Path) -> None:
    done = rehearse(tmp_path, 15, *STAGES)
    found = json.loads((tmp_path / "stages.json").read_text())
    assert done.returncode == 0, (done.stderr[-2000:], found)
    assert [found[name]["state"] for name in STAGES] == ["done"] * 4
    smoke = json.loads((tmp_path / "smoke" / "smoke.json").read_text())
    assert smoke["engine"] == {"enforce_eager": True, "distributed_executor_backend": "uni"}
    assert smoke["tried"][0]["equals_plain"]
    speed = json.loads((tmp_path / "speed" / "engine.json").read_text())
    methods = ("plain", "automatic", "lmtp", "ngram")
    assert [(r["method"], r["batch"]) for r in speed["runs"]] == [
        (method, batch) for method in methods for batch in (1, 2)
    ]
    sizes = json.loads((tmp_path / "dimensions" / "engine.json").read_text())
    assert {r["method"] for r in sizes["runs"]} == {"plain", "lmtp"}
    assert 'failures="0"' in (tmp_path / "exactness" / "tests.xml").read_text()
    again = rehearse(tmp_path, 1, *STAGES)
    assert again.returncode == 0
    assert again.stdout.count("done before") == 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_heads_are_made_in_the_time_that_is_left(tmp_path: Path) -> None:
    done = rehearse(tmp_path, 4, "heads")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "heads" / "made" / "config.json").is_file()
