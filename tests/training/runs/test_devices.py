"""Several training processes: what each believes, and that two of them train as one would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")

from safetensors.torch import load_file  # noqa: E402

from tests.support.training import tiny_runs  # noqa: E402
from vllm_lmtp.training import devices  # noqa: E402
from vllm_lmtp.training.runs.run import run  # noqa: E402

TOP = Path(__file__).parents[3]


def test_a_program_started_by_one_process_does_not_count_itself_among_them() -> None:
    launch = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x"}
    assert devices.alone(launch | {"ACCELERATE_USE_CPU": "1", "HOME": "h"}) == {"HOME": "h"}


@pytest.mark.parametrize("has", [False, True])
def test_bfloat16_where_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert devices.in_bfloat16(True) is has


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, machine: str, avx512: bool, amx: bool, wanted: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    expected = wanted and (machine == "aarch64" or avx512 or amx)
    assert devices.in_bfloat16(wanted) == expected


def test_only_the_main_process_makes_and_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.delenv("RANK", raising=False)
    devices.main_first(lambda: made.append("by main"), lambda: True)
    monkeypatch.setenv("RANK", "1")
    looks: list[int] = []

    def is_made() -> bool:
        looks.append(1)
        return len(looks) == 3

    monkeypatch.setattr(devices, "POLL_SECONDS", 0.0)
    devices.main_first(lambda: made.append("by another"), is_made)
    assert made == ["by main"]
    assert len(looks) == 3


def _launch(config: Path, processes: int) -> str:
    """Train by `accelerate launch` on CPU; what was printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # With --cpu accelerate would start one process. The training finds no GPU and takes the CPU.
    words = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    words += ["--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    words += ["--main_process_port", str(port), "-m", "vllm_lmtp.cli", "train", str(config)]
    environment = devices.alone(os.environ) | {"PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, env=environment, cwd=TOP, text=True, capture_output=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes_train_stage_2_as_one_does(tmp_path: Path) -> None:
    """The rows of a step and their losses are the same, however they are dealt out."""
    tiny_runs.save_stage1(tmp_path / "stage1")
    tiny_runs.save_dataset(tmp_path / "dataset")
    lora = {"dropout": 0.0}
    one = run(str(tiny_runs.stage2_file(tmp_path / "one", lora=lora)))
    two = tiny_runs.stage2_file(tmp_path / "two", lora=lora, optim={"batch_rows": 2})
    printed = _launch(two, 2)
    assert printed.count(str(tmp_path / "two" / "adapter")) == 1  # the main process alone reports
    log = tiny_runs.read_log(tmp_path / "two" / "adapter")
    assert log["processes"] == 2
    assert [e["step"] for e in log["history"]] == [e["step"] for e in one["history"]]
    for found, expected in zip(log["history"], one["history"], strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    weights = "adapter_model.safetensors"
    found, expected = (load_file(tmp_path / n / "adapter" / weights) for n in ("two", "one"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_two_processes_train_stage_1_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_lmtp.training.runs.report.STORY_TOKENS", 4)
    tiny_runs.save_backbone(tmp_path / "backbone")
    one = run(str(tiny_runs.stage1_file(tmp_path / "one")))
    printed = _launch(tiny_runs.stage1_file(tmp_path / "two", optim={"batch_rows": 2}), 2)
    assert printed.count(str(tmp_path / "two" / "model")) == 1
    log = tiny_runs.read_log(tmp_path / "two" / "model")
    assert log["processes"] == 2
    for found, expected in zip(log["history"], one["history"], strict=True):
        assert found == pytest.approx(expected, abs=1e-3)
