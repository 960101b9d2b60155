from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

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
