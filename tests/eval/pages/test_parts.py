"""The whole report: its parts' commands, when they are measured again, and their one page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.known_speeds import speed_result
from tests.support.random_models import EMBEDDED
from vllm_lmtp.cli import main
from vllm_lmtp.cli.evaluate import whole_report
from vllm_lmtp.eval.pages import parts, report


def test_parts_hand_over_the_tuned_configuration(tmp_path: Path) -> None:
    words = parts.part_words(parts.QUICK, ["--model", "m"], 6, tmp_path)
    assert list(words) == [k for k in parts.KINDS if k not in ("serve", "quality")]
    assert words["speed"][-2:] == ["--config", str(tmp_path / "tuned.yaml")]
    lengths = words["tune"][words["tune"].index("--lengths") + 1 :]
    assert lengths == ["2", "4", "6"]
    assert "--cuts" not in words["tune"]
    cut = parts.part_words(parts.QUICK, ["--model", "m"], 6, tmp_path, cuts=True)["tune"]
    assert cut[cut.index("--cuts") + 1] == "0.15"
    full = parts.part_words(parts.FULL, ["--model", "m"], 6, tmp_path)
    assert full["serve"][-2:] == words["speed"][-2:]
    eager = parts.part_words(replace(parts.FULL, eager=True), ["--model", "m"], 6, tmp_path)
    for kind in ("tune", "speed", "serve"):
        assert "--eager" not in full[kind]
        assert "--eager" in eager[kind]
    assert list(parts.KINDS).index("tune") < list(parts.KINDS).index("speed")


@pytest.mark.parametrize(
    ("most", "count", "expected"),
    [(6, 3, [2, 4, 6]), (6, None, [1, 2, 3, 4, 5, 6]), (2, 3, [1, 2]), (5, 2, [2, 5])],
)
def test_lengths_reach_the_longest(most: int, count: int | None, expected: list[int]) -> None:
    assert parts.spread_lengths(most, count) == expected


def test_a_part_is_measured_again_when_its_command_or_files_change(tmp_path: Path) -> None:
    stamps = parts.Stamps(tmp_path)
    stamps.note("heads", {"words": ["a"]}, 1)
    # Its result is not there.
    assert parts.Stamps(tmp_path).code("heads", {"words": ["a"]}) is None
    (tmp_path / "heads.json").write_text("{}")
    assert parts.Stamps(tmp_path).code("heads", {"words": ["a"]}) == 1
    assert parts.Stamps(tmp_path).code("heads", {"words": ["b"]}) is None


def test_one_page_of_all_parts() -> None:
    text = parts.combine("T", {"speed": "# Speed\n\n## A\n", "heads": "# Heads\n"}, {"tune": "x"})
    assert text.startswith("# T\n\n**tune was not measured**: x")
    assert text.index("## Heads") < text.index("## Speed") < text.index("### A")
    assert "![speed](speed.png)" in text


def test_a_part_that_broke_off_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with 1 as one does that found differences, which is remembered."""
    measured: list[str] = []

    def measure(words: list[str]) -> int:
        measured.append("tune" if words[0] == "tune" else words[1])
        if measured[-1] == "speed":
            report.save(speed_result(), tmp_path)
        return 1

    monkeypatch.setattr(whole_report, "_measure", measure)
    command = ["eval", "report", "--model", str(EMBEDDED), "--quick", "--output", str(tmp_path)]
    (tmp_path / "heads.json").write_text("{}")  # of another time
    assert main(command) == 1
    assert measured == ["heads", "acceptance", "lossless", "tune", "speed"]
    page = (tmp_path / whole_report.PAGE).read_text()
    assert page.count("was not measured") == 4
    assert "## Speed" in page
    assert main(command) == 1
    assert measured[5:] == ["heads", "acceptance", "lossless", "tune"]
    (tmp_path / parts.CONFIG_FILE).write_text("model: m")
    assert main(command) == 1
    assert measured[-1] == "speed"


def test_a_report_that_is_stopped_leaves_no_part_running(tmp_path: Path) -> None:
    """It would go on for minutes, and spoil whatever is measured next."""
    part, noted = tmp_path / "part", tmp_path / "pid"
    part.write_text(f"#!/bin/sh\necho $$ > {noted}.new\nmv {noted}.new {noted}\nexec sleep 60\n")
    part.chmod(0o755)
    script = (
        "import sys; from vllm_lmtp.cli.evaluate import whole_report as report; "
        f"sys.executable = {str(part)!r}; sys.exit(report._measure([]))"
    )
    report = subprocess.Popen([sys.executable, "-c", script])
    while not noted.exists():
        assert report.poll() is None
        time.sleep(0.05)
    report.terminate()
    assert report.wait(timeout=20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(noted.read_text()), 0)
