"""Training files, models and disks that a training run must refuse, losing nothing."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")

from tests.faults.disk import full_beyond  # noqa: E402
from tests.support.training import tiny_runs  # noqa: E402
from vllm_lmtp.errors import LMTPError  # noqa: E402
from vllm_lmtp.training.runs.run import run  # noqa: E402


def _refused(path: Path) -> str:
    """The one refusal of a run, as "field: found"; it must be complete."""
    with pytest.raises(LMTPError) as error:
        run(str(path))
    (refusal,) = error.value.refusals
    assert all((refusal.where, refusal.expected, refusal.remedy))
    return f"{refusal.field}: {refusal.found}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_runs.save_stage1(tmp_path / "stage1")
    tiny_runs.save_dataset(tmp_path / "dataset")
    return tmp_path


def test_an_unknown_model_type(folder: Path) -> None:
    config = folder / "stage1" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "lamma"}))
    assert _refused(tiny_runs.stage2_file(folder / "two")) == "model_type: 'lamma'"
    file = tiny_runs.stage1_file(folder / "one", backbone=str(folder / "stage1"))
    assert _refused(file) == "model_type: 'lamma'"


def test_a_model_without_its_weights(folder: Path) -> None:
    (folder / "stage1" / "model.safetensors").unlink()
    file = tiny_runs.stage1_file(folder / "one", backbone=str(folder / "stage1"))
    assert _refused(file).startswith("model: transformers cannot load it")


def test_heads_that_are_there_are_dropped_and_said(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_lmtp.training.runs.report.STORY_TOKENS", 4)
    file = tiny_runs.stage1_file(
        folder / "one", backbone=str(folder / "stage1"), optim={"steps": 1}
    )
    with caplog.at_level(logging.WARNING, "vllm_lmtp"):
        run(str(file))
    assert "has leap heads already; only its backbone is used" in caplog.text


def test_no_model_and_no_data_where_the_file_says(folder: Path) -> None:
    file = tiny_runs.stage2_file(folder / "a", stage1=str(folder / "nowhere"))
    assert "nowhere, which holds no config.json" in _refused(file)
    file = tiny_runs.stage2_file(folder / "b", dataset=str(folder / "nowhere"))
    assert _refused(file).startswith("dataset: ")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dataset": ...}, "dataset"),
        ({"head_wieght": 0.1}, "head_wieght"),
        ({"head_weight": -0.1}, "head_weight"),
        ({"lora": {"r": 0}}, "lora.r"),
        ({"lora": {"dropout": 1.0}}, "lora.dropout"),
        ({"optim": {"epochs": 1}}, "optim.steps"),
        ({"optim": {"steps": ...}}, "optim.steps"),
        ({"optim": {"steps": ..., "epochs": 0}}, "optim.epochs"),
        ({"optim": {"accumulate": 0}}, "optim.accumulate"),
    ],
)
def test_a_wrong_field_of_stage_2(folder: Path, changes: dict[str, object], field: str) -> None:
    assert _refused(tiny_runs.stage2_file(folder / "run", **changes)).startswith(f"{field}: ")
    assert not (folder / "run").exists()


def test_stage_1_from_a_dataset_that_is_too_short_for_its_heads(folder: Path) -> None:
    tiny_runs.save_backbone(folder / "backbone")
    source = {"dataset": str(folder / "dataset"), "own_text": ...}
    heads = {"n_head": 3, "skip_token": 20}
    assert _refused(tiny_runs.stage1_file(folder / "a", heads=heads, **source)).startswith("texts:")
    log = run(str(tiny_runs.stage1_file(folder / "b", optim={"steps": 2}, **source)))
    assert log["data"]["train_texts"] == 20
    assert (Path(log["model"]) / "README.md").is_file()


def test_a_full_disk_leaves_the_previous_adapter_whole(folder: Path) -> None:
    """First while the adapter is saved, then while a checkpoint of the run is."""
    path = tiny_runs.stage2_file(folder / "run", optim={"steps": 2})
    adapter = Path(run(str(path))["adapter"])
    before = {p.name: p.read_bytes() for p in adapter.iterdir()}
    with full_beyond(10_000):
        assert _refused(path).startswith("output: cannot be written")
    assert {p.name: p.read_bytes() for p in adapter.iterdir()} == before
    assert not list(adapter.parent.glob(".adapter*"))
    shutil.rmtree(folder / "run" / "work")  # or other steps would be refused
    path = tiny_runs.stage2_file(folder / "run", optim={"steps": 4})
    with full_beyond(10_000):
        assert _refused(path).startswith("output: cannot be written")
    assert {p.name: p.read_bytes() for p in adapter.iterdir()} == before
    assert run(str(path))["steps"] == 4
