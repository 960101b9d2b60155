"""The cost of looking up what is copied, measured on a few tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vllm_lmtp.eval.measurements import copy_cost

WORDS = ["--contexts", "1", "20", "--requests", "1", "3", "--rounds", "4", "--device", "cpu"]


def measured(output: Path, *more: str) -> dict:
    threads = torch.get_num_threads()
    try:
        assert copy_cost.main([*WORDS, *more, "--output", str(output)]) == 0
    finally:
        torch.set_num_threads(threads)
    return json.loads(output.read_text())


def test_every_setting(tmp_path: Path) -> None:
    result = measured(tmp_path / "cost.json")
    assert "python -m vllm_lmtp.eval.measurements.copy_cost" in result["provenance"]["command"]
    assert (result["device"], result["rounds"], result["threads"]) == ("cpu", 4, 1)
    runs = result["runs"]
    wanted = [(c, c, r, "torch") for c in (1, 20) for r in (1, 3)]
    settings = ("context", "max_model_len", "requests", "way")
    assert [tuple(run[name] for name in settings) for run in runs] == wanted
    for run in runs:
        assert 0 < run["min_ms"] <= run["median_ms"] <= run["max_ms"]


def test_texts_shorter_than_they_may_be(tmp_path: Path) -> None:
    runs = measured(tmp_path / "cost.json", "--max-model-len", "32")["runs"]
    assert {run["max_model_len"] for run in runs} == {32}


def test_texts_longer_than_they_may_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        copy_cost.main([*WORDS, "--max-model-len", "19", "--output", str(tmp_path / "cost.json")])
    assert "--max-model-len" in capsys.readouterr().err


def test_what_is_looked_up_is_the_texts() -> None:
    texts = copy_cost.slot_texts(2, 30, 40, torch.device("cpu"))
    tokens = texts.req_states.all_token_ids.gpu
    tokens[1, 28:30] = tokens[1, 10:12]
    found = texts.copied(torch.tensor([1]), 3, 8)
    assert int(found.lengths) >= 2
    assert found.tokens[0].tolist() == tokens[1, 12:15].tolist()
