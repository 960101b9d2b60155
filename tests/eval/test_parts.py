"""The whole report's parts: their commands, when they are measured again, and their one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vllm_lmtp.eval import parts


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
    stamps.note("heads", {"words": ["a"]})
    assert not parts.Stamps(tmp_path).has("heads", {"words": ["a"]})  # its result is not there
    (tmp_path / "heads.json").write_text("{}")
    assert parts.Stamps(tmp_path).has("heads", {"words": ["a"]})
    assert not parts.Stamps(tmp_path).has("heads", {"words": ["b"]})


def test_one_page_of_all_parts() -> None:
    text = parts.combine("T", {"speed": "# Speed\n\n## A\n", "heads": "# Heads\n"}, {"tune": "x"})
    assert text.startswith("# T\n\n**tune was not measured**: x")
    assert text.index("## Heads") < text.index("## Speed") < text.index("### A")
    assert "![speed](speed.png)" in text
