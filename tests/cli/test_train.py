from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from vllm_lmtp.checkpoints.subject import EMBEDDED
from vllm_lmtp.cli import main


def test_train_hands_over_what_was_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(
        config: Path, output: Path | None, teacher: Path | None, dataset: Path | None
    ) -> dict[str, object]:
        print("a log line")
        return {"config": str(config), "output": str(output), "teacher": teacher}

    module = types.ModuleType("vllm_lmtp.training.runs.run")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm_lmtp.training.runs.run", module)
    config = tmp_path / "tiny.yaml"
    config.write_text("")
    assert main(["train", str(config), "--output", "out", "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out) == {"config": str(config), "output": "out", "teacher": None}
    assert "a log line" in captured.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "configs/train/s1/tiny.yaml", "--teacher", "./nowhere"], "backbone"),
        (["train", "configs/train/s2/tiny.yaml", "--teacher", "./nowhere"], "stage1"),
        (["train", "configs/train/s1/tiny.yaml", "--dataset", "answers"], "--dataset"),
        (["distill", "configs/train/distill/smollm2.yaml", "--model", "./nowhere"], "./nowhere"),
        (["distill", "configs/train/distill/smollm2.yaml", "--model", "tests"], "model"),
        (["distill", "configs/train/distill/smollm2.yaml"], "model"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    words: list[str], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datasets")
    pytest.importorskip("peft")
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    told = capfd.readouterr().err
    assert says in told
    assert "expected" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_where_a_file_stands_is_refused(
    output: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "file").write_text("mine")
    words = ["distill", "configs/train/distill/tiny.yaml", "--model", str(EMBEDDED)]
    assert main([*words, "--output", str(tmp_path / output)]) == 2
    assert "output" in capfd.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
