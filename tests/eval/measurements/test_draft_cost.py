"""The cost of a scorer, measured on the embedded checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.support.random_models import EMBEDDED
from vllm_lmtp.eval.measurements import draft_cost


def test_every_way_in_every_setting(tmp_path: Path) -> None:
    output, threads = tmp_path / "cost.json", torch.get_num_threads()
    words = [str(EMBEDDED), "--requests", "1", "3", "--threads", "1", "--rounds", "4"]
    try:
        assert draft_cost.main([*words, "--output", str(output)]) == 0
    finally:
        torch.set_num_threads(threads)
    result = json.loads(output.read_text())
    assert "python -m vllm_lmtp.eval.measurements.draft_cost" in result["provenance"]["command"]
    runs = result["runs"]
    ways = ("none", "recurrent, plain product", "recurrent")
    assert [(r["requests"], r["scorer"]) for r in runs] == [(n, w) for n in (1, 3) for w in ways]
    for run in runs:
        assert run["wall_ms"] > 0 < run["processor_ms"]
        assert (run["wall_ratio"] == 1) == (run["scorer"] == "none")


def test_rounds_are_compared_one_by_one() -> None:
    assert draft_cost.ratio([2.0, 9.0, 5.0], [1.0, 3.0, 5.0]) == 2
