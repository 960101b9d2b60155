"""Scores with and without speculation, with a stand-in for lm-evaluation-harness."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.eval.pages.test_report import result
from tests.support.random_models import fields
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.eval.engines.methods import Method
from vllm_lmtp.eval.measurements import quality
from vllm_lmtp.eval.measurements.quality import DRAFTER_LINE, Exam, differences, read_scores
from vllm_lmtp.eval.pages import parts, report

METHODS = [Method("plain"), Method("lmtp", {"method": "lmtp"})]
EXAM = Exam(("gsm8k",), 5, None, True, {"dtype": "float32"})
REPORT = {
    "results": {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.25,
            "exact_match_stderr,strict-match": 0.1,
            "exact_match,flexible-extract": 0.5,
            "exact_match_stderr,flexible-extract": "N/A",
        },
        "stories": {"acc,none": 1, "acc_stderr,none": 0.0},
    }
}


def test_scores_of_a_report() -> None:
    assert read_scores(REPORT) == {
        "gsm8k, exact_match, strict-match": 0.25,
        "gsm8k, exact_match, flexible-extract": 0.5,
        "stories, acc, none": 1.0,
    }


def test_every_difference_is_listed() -> None:
    assert differences({"plain": {"a": 0.5, "b": 1.0}, "lmtp": {"a": 0.5, "b": 1.0}}) == []
    found = differences({"plain": {"a": 0.5, "b": 1.0}, "lmtp": {"a": 0.4}})
    assert [(d["score"], d["plain"], d["found"]) for d in found] == [
        ("a", 0.5, 0.4),
        ("b", 1.0, None),
    ]


def harness(patch: pytest.MonkeyPatch, said: str, lmtp: float = 0.25, code: int = 0) -> list[Any]:
    """lm_eval stands in: plain scores a quarter. Returns the commands that were run."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        commands.append(command)
        args = json.loads(command[command.index("--model_args") + 1])
        value = lmtp if "speculative_config" in args else 0.25
        folder = Path(command[command.index("--output_path") + 1]) / "m"
        folder.mkdir()
        scores = {"results": {"gsm8k": {"exact_match,none": value}}}
        (folder / "results_2026.json").write_text(json.dumps(scores))
        return subprocess.CompletedProcess(command, code, said, "")

    stand_in = SimpleNamespace(run=run, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
    patch.setattr(quality, "subprocess", stand_in)
    return commands


def test_both_ways_of_serving_are_asked_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = harness(monkeypatch, f"INFO {DRAFTER_LINE}0.1)")
    found = quality.measure("model", METHODS, EXAM, lambda text: None)
    assert found["differences"] == []
    plain, lmtp = (c[c.index("--model_args") + 1] for c in commands)
    assert json.loads(plain) == {"pretrained": "model", "dtype": "float32"}
    assert json.loads(lmtp) == json.loads(plain) | {"speculative_config": {"method": "lmtp"}}
    for command in commands:
        assert command[1:3] == ["-m", "lm_eval"]
        assert command[command.index("--limit") + 1] == "5"
        assert "--apply_chat_template" in command


def test_a_score_that_differs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    harness(monkeypatch, DRAFTER_LINE, lmtp=0.5)
    found = quality.measure("model", METHODS, EXAM, lambda text: None)
    assert len(found["differences"]) == 1
    report.check_output(tmp_path)
    files = report.save(result("quality", **found), tmp_path)
    page = report.render(report.read_result(files[0]))
    assert "| gsm8k, exact_match, none | 0.2500 | 0.5000 |" in page
    assert "**1 score(s) differ" in page
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_equal_scores_of_an_engine_that_never_drafted_mean_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness(monkeypatch, "INFO nothing about heads")
    with pytest.raises(LMTPError, match="never loaded the heads"):
        quality.measure("model", METHODS, EXAM, lambda text: None)


def test_what_the_harness_says_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    harness(monkeypatch, "first\nKeyError: 'gsm9k'\n\n", code=1)
    with pytest.raises(LMTPError, match="found KeyError: 'gsm9k'"):
        quality.measure("model", METHODS, EXAM, lambda text: None)


def test_without_the_harness(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    assert fields(capfd, "eval", "quality", "--tasks", "gsm8k") == {"import"}


def test_a_part_of_the_report_only_if_asked_for(tmp_path: Path) -> None:
    common = ["--model", "m", "--set", "s"]
    assert "quality" not in parts.part_words(parts.FULL, common, 6, tmp_path)
    words = parts.part_words(parts.FULL, common, 6, tmp_path, ["--model", "m", "--tasks", "gsm8k"])
    assert words["quality"][:4] == ["eval", "quality", "--model", "m"]
    assert "--set" not in words["quality"]
