"""The whole command on the embedded checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from safetensors.torch import load_file

import vllm_lmtp as package
from tests.support.command import ROOT, vllm_lmtp
from vllm_lmtp.formats.checkpoint import read_checkpoint

TINY = Path(package.__file__).parent / "checkpoints" / "tiny"


def _weights(folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: value for file in files for name, value in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_heads_in_one_go_and_again_where_interrupted(tmp_path: Path) -> None:
    given = tmp_path / "mine.jsonl"
    given.write_text('{"prompt": "Tom and Lily went to the"}\n')
    words = ("heads", TINY, tmp_path / "out", "--minutes", "3", "--prompts", given, "--json")
    done = vllm_lmtp(*words)
    assert done.code == 0, done.stderr[-3000:]
    report = done.value
    assert report["plan"]["asked"]["prompts"] == ["0-mine"]
    assert report["tokens_a_step"]["0"]["with the term"] > 1.5
    found = read_checkpoint(tmp_path / "out")
    assert (found.schedule.n_heads, found.schedule.stride) == (3, 2)
    assert found.scorer is not None
    assert found.scorer.kind == "recurrent"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    target = config["speculators_config"]["verifier"]["name_or_path"]
    assert (tmp_path / "out" / target).resolve() == TINY.resolve()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "vllm serve tiny --speculative-config" in card
    for name in ("curves.png", "training_log.json", "heads.json"):
        assert (tmp_path / "out" / name).is_file()

    # What lies there when it is killed in the middle of training: no heads, older checkpoints.
    work = tmp_path / "out.work"
    before = _weights(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(work / "calibrated")
    shutil.rmtree(work / "heads" / "model")
    checkpoints = sorted((work / "heads" / "work").glob("checkpoint-*"), key=_step)
    for checkpoint in checkpoints[1:]:
        shutil.rmtree(checkpoint)
    again = vllm_lmtp(*words)
    assert again.code == 0, again.stderr[-3000:]
    after = _weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    assert json.loads((work / "plan.json").read_text())["training"] == report["plan"]["training"]

    # Asked once more it has nothing to do; asked for something else it refuses to go on.
    assert vllm_lmtp(*words).value == again.value
    shutil.rmtree(tmp_path / "out")
    other = vllm_lmtp(*("heads", TINY, tmp_path / "out", "--minutes", "2"))
    assert other.code == 2
    assert "plan.json: minutes" in other.stderr


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_twice_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Killed with all it started while it answers, and again while it trains."""
    words = ("heads", str(TINY), "out", "--minutes", "3")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    work = killed / "out.work"
    for is_reached in (
        lambda: len([*(work / "answers" / "answers").glob("*.rows.safetensors")]) > 1,
        lambda: any((work / "heads" / "work").glob("checkpoint-*/trainer_state.json")),
    ):
        _killed_once(is_reached, words, killed)
        assert not (killed / "out").exists()
    _ends(words, killed)
    # Without a pause, with the decisions that depend on the clock.
    (whole / "out.work").mkdir(parents=True)
    shutil.copy(work / "plan.json", whole / "out.work")
    _ends(words, whole)
    after, expected = _weights(killed / "out"), _weights(whole / "out")
    assert after.keys() == expected.keys()
    assert all((after[name] == expected[name]).all() for name in expected)


def _start(words: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "vllm_lmtp.cli", *words]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )


def _killed_once(is_reached: Callable[[], bool], words: Sequence[str], folder: Path) -> None:
    running = _start(words, folder)
    try:
        while not is_reached():
            assert running.poll() is None, (folder / "log").read_text()[-3000:]
            time.sleep(0.05)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def _ends(words: Sequence[str], folder: Path) -> None:
    assert _start(words, folder).wait() == 0, (folder / "log").read_text()[-3000:]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def test_what_cannot_be_meant_is_refused_at_once(tmp_path: Path) -> None:
    done = vllm_lmtp("heads", TINY, tmp_path / "out", "--prompts", tmp_path / "none.jsonl")
    assert done.code == 2
    assert "--prompts" in done.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    done = vllm_lmtp("heads", TINY, tmp_path / "full")
    assert done.code == 2
    assert "OUTPUT" in done.stderr


def test_what_would_be_missed_later_is_asked_for_first(tmp_path: Path) -> None:
    done = vllm_lmtp("heads", TINY, tmp_path / "out", "--report-to", "nowhere")
    assert done.code == 2
    assert "report_to" in done.stderr
    assert not (tmp_path / "out.work").exists()
