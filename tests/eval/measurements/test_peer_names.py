"""Acceptance under the names of speculators and ModelOpt, and the files that hold it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from vllm_lmtp.eval.measurements.acceptance import Request, summarise
from vllm_lmtp.eval.measurements.peer_names import modelopt_fields, speculators_rows
from vllm_lmtp.eval.pages.peer_files import write_peer_files
from vllm_lmtp.method.leap import LeapSchedule


def request(number: int, group: str, accepted: list[int], drafted: int = 4) -> Request:
    each = (drafted,) * len(accepted)
    return Request(number, group, 5, 20, None, each, tuple(accepted))


REQUESTS = [request(0, "qa", [2, 0, 4]), request(1, "rag", [1, 1]), request(2, "qa", [])]


def test_a_row_for_each_part_of_the_set() -> None:
    rows = speculators_rows(REQUESTS, ["rag", "qa", "math"], 4)
    assert [row["subset"] for row in rows] == ["rag", "qa"]
    assert rows[1] == {
        "subset": "qa",
        "num_drafts": 3,
        "num_draft_tokens": 12,
        "num_accepted_tokens": 6,
        "acceptance_length": 3.0,
        "acceptance_at_pos_0": pytest.approx(2 / 3),
        "acceptance_at_pos_1": pytest.approx(2 / 3),
        "acceptance_at_pos_2": pytest.approx(1 / 3),
        "acceptance_at_pos_3": pytest.approx(1 / 3),
    }


def test_lengths_count_the_targets_own_token() -> None:
    found = modelopt_fields(REQUESTS)
    assert found["Request_AL"] == {"0": {"0": 3.0}, "1": {"0": 2.0}}
    assert found["Category_AL"] == {"qa": 3.0, "rag": 2.0}
    assert found["Average_AL"] == 2.5
    assert found["Acceptance_Length_Histogram"] == {"1": 1, "2": 2, "3": 1, "5": 1}


def test_joint_and_conditional_rates_against_a_count_of_steps() -> None:
    found = modelopt_fields(REQUESTS)
    lengths = [3, 1, 5, 2, 2]
    before = 1.0
    for k in sorted(Counter(lengths)):
        joint = sum(length >= k for length in lengths) / len(lengths)
        assert found["Joint_Acceptance_Rate"][str(k)] == pytest.approx(joint)
        assert found["Conditional_Acceptance_Rate"][str(k)] == pytest.approx(joint / before)
        before = joint


def test_nothing_drafted() -> None:
    found = modelopt_fields([request(0, "qa", [])])
    assert found["Average_AL"] is None
    assert found["Acceptance_Length_Histogram"] == {}
    (row,) = speculators_rows([request(0, "qa", [])], ["qa"], 2)
    assert row["acceptance_length"] == row["acceptance_at_pos_1"] == 0


def test_the_share_after_the_place_before() -> None:
    cut = [request(0, "a", [2, 0, 4]), request(1, "a", [1], drafted=1)]
    found = summarise(cut, LeapSchedule(2, 2), 4)
    assert found["conditional"] == [3 / 4, 1.0, 1 / 2, 1.0]


def test_the_files_are_read_back(tmp_path: Path) -> None:
    found = {
        "temperature": 0.0,
        "speculators": speculators_rows(REQUESTS, ["qa", "rag"], 4),
        "modelopt": modelopt_fields(REQUESTS),
    }
    result = {"variants": [{"name": "my heads/2", "temperatures": [found]}]}
    written = write_peer_files(result, tmp_path)
    folder = tmp_path / "peers" / "my-heads-2-t0"
    assert written == [folder / "acceptance.csv", folder / "acceptance_rate.json"]
    with written[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["subset"] for row in rows] == ["qa", "rag"]
    assert [float(row["acceptance_length"]) for row in rows] == [3.0, 2.0]
    positions = {name for name in rows[0] if name.startswith("acceptance_at_pos_")}
    assert positions == {f"acceptance_at_pos_{i}" for i in range(4)}
    assert json.loads(written[1].read_text()) == found["modelopt"]
    older = {"variants": [{"name": "x", "temperatures": [{"temperature": 1.0}]}]}
    assert write_peer_files(older, tmp_path) == []
