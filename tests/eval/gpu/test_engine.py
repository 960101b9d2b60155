"""The GPU kit's engine part, rehearsed with real engines on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.client import ROOT, environment
from tests.engine.test_real import CHECKPOINT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EAGER = {"enforce_eager": True, "distributed_executor_backend": "uni"}


def measured(out: Path, *words: str, runner: int = 1, **options: Any) -> list[dict[str, Any]]:
    """The runs that the kit measures."""
    command = [sys.executable, "-m", "vllm_lmtp.eval.gpu.engine", *words, "--out", str(out)]
    command += ["--engine", json.dumps(EAGER | options)]
    env = environment(runner, asynchronous=runner == 2, processes=False)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((out / "engine.json").read_text())
    assert result["failed"] == []
    assert (out / "engine.png").read_bytes().startswith(b"\x89PNG")
    runs: list[dict[str, Any]] = result["runs"]
    for run in runs:
        assert run["tokens_per_second"] == pytest.approx(run["tokens"] / run["seconds"])
        assert (run["seconds_per_draft"] is not None) == (run["method"] == "lmtp")
    return runs


def test_drafts_that_the_target_judges(tmp_path: Path) -> None:
    words = ("--dummy", "tiny", "--real-acceptance", "--head-dtypes", "int8")
    runs = measured(tmp_path, *words, "--batches", "1", "2", "--tokens", "8")
    assert [(r["method"], r["batch"]) for r in runs] == [
        (method, batch) for method in ("plain", "lmtp", "ngram") for batch in (1, 2)
    ]
    assert all(r["runner"] == 1 and r["tokens"] == 8 * r["batch"] for r in runs)


def test_synthetic_acceptance_at_the_lengths_asked_for(tmp_path: Path) -> None:
    """On Runner V2, scheduled asynchronously, as a GPU would run it."""
    words = ("--dummy", "tiny", "--methods", "lmtp", "--head-dtypes", "auto", "--batches", "4")
    lengths = ("--acceptance-lengths", "1", "3", "7", "--tokens", "120")
    runs = measured(tmp_path, *words, *lengths, runner=2, async_scheduling=True)
    assert [r["acceptance_length"] for r in runs] == [1, 3, 7]
    for run in runs:
        assert (run["runner"], run["async"]) == (2, True)
        asked = run["acceptance_length"]
        assert run["measured_length"] == pytest.approx(asked, abs=0 if asked in (1, 7) else 0.5)


def test_a_real_checkpoint_writes_what_plain_decoding_writes(tmp_path: Path) -> None:
    words = ("--checkpoint", str(CHECKPOINT), "--methods", "plain", "lmtp", "--dtype", "float32")
    size = ("--head-dtypes", "auto", "--batches", "1", "3", "--tokens", "40")
    runs = measured(tmp_path, *words, *size, max_model_len=256)
    drafted = [r for r in runs if r["method"] == "lmtp"]
    assert [r["equals_plain"] for r in drafted] == [True, True]
    assert all(r["measured_length"] > 1.2 for r in drafted)
