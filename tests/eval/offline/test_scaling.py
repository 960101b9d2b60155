"""Accuracy against training text, from logs whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.random_models import EMBEDDED, fields, succeed
from vllm_lmtp.eval.offline import scaling
from vllm_lmtp.eval.pages import report


def write_log(folder: Path, tokens: int, top1: float, **changes: Any) -> Path:
    heads = [{"head": h, "offset": 3 + 2 * h, "top1": top1 - 0.1 * h, "top10": 0.5} for h in (0, 1)]
    log = {
        "command": "vllm-lmtp train run.yaml",
        "own_text": {"train_tokens": tokens},
        "epochs": 1.0,
        "steps": 9,
        "held_out": {"tokens": 700, "heads": heads},
    }
    file = folder / f"{tokens}.json"
    file.write_text(json.dumps(log | changes))
    return file


def test_a_doubling_gains_what_the_logs_were_made_to_gain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = [f"{n}={write_log(tmp_path, n, r)}" for n, r in ((4000, 0.4), (1000, 0.3), (2000, 0.35))]
    succeed("eval", "scaling", *logs, "--output", tmp_path / "out", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [point["tokens"] for point in found["points"]] == [1000, 2000, 4000]
    assert found["doubling"] == {
        offset: {"top1": pytest.approx(0.05), "top10": 0.0} for offset in ("3", "5")
    }
    assert report.render(found) == (tmp_path / "out" / "scaling.md").read_text()
    assert "| top1 | +5.0 | +5.0 |" in report.render(found)
    assert "| 1000 | 1,000 | 1 | 700 | 30.0 / 50.0 | 20.0 / 50.0 |" in report.render(found)
    assert (tmp_path / "out" / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_one_amount_of_text_has_no_slope(tmp_path: Path) -> None:
    point = scaling.read_point("a", write_log(tmp_path, 1000, 0.3))
    assert scaling.measure([point, point])["doubling"]["3"] == {"top1": None, "top10": None}


def test_a_log_of_stage_1_is_read(tmp_path: Path) -> None:
    log = write_log(tmp_path, 1000, 0.3, own_text=None, data={"train_tokens": 77})
    assert scaling.read_point("a", log)["tokens"] == 77


def test_logs_of_this_package_are_read() -> None:
    point = scaling.read_point("tiny", EMBEDDED / "heads_log.json")
    assert point["tokens"] == 1_465_494
    assert point["offsets"]["3"]["top5"] == 0.399


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"held_out": {"heads": [{"head": 0}]}}', '{"held_out": null}']
)
def test_other_files_are_refused(
    content: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.json"
    file.write_text(content)
    assert fields(capfd, "eval", "scaling", f"a={file}") == {"content"}
