"""Kept rows: one for each token that was sampled, whatever vLLM computed ahead."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from vllm_lmtp.training.distillation import recorder  # noqa: E402


def _recorder(monkeypatch: pytest.MonkeyPatch) -> recorder.RowRecorder:
    """Three steps of two requests, a-1 and b-2, as vLLM names them."""
    monkeypatch.setattr(recorder, "_tensor_parallel_rank", lambda: 0)
    names = [["a-1", "b-2"], ["b-2", "a-1"], ["a-1", "b-2"]]
    rows = [torch.tensor([[n], [n + 10.0]]) for n in range(3)]
    made = recorder.RowRecorder()
    made.model_runner = SimpleNamespace(lmtp_steps=list(zip(names, rows, strict=True)))
    return made


def test_a_step_that_was_scheduled_ahead_of_an_end_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, file = _recorder(monkeypatch), tmp_path / "rows.safetensors"
    made.lmtp_write_rows(str(file), ["b", "a"], [3, 2])
    found = load_file(file)
    assert found["rows"].flatten().tolist() == [10.0, 1.0, 12.0, 0.0, 11.0]
    assert found["bounds"].tolist() == [0, 3, 5]
    assert made.model_runner.lmtp_steps == []


def test_a_row_that_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"rows kept: \[3, 3\], tokens sampled: \[4, 3\]"):
        _recorder(monkeypatch).lmtp_write_rows(str(tmp_path / "rows"), ["a", "b"], [4, 3])
    assert not any(tmp_path.iterdir())
