"""The parts of a whole report: which commands measure them, and the one page made of theirs.

Each part is a command in a process of its own, and writes a result of its own; a part whose result
is there, made by the same command from the same files, is not measured again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.eval.engines.cells import key_of
from vllm_lmtp.formats.whole import room_for, write_json

KINDS = ("heads", "acceptance", "lossless", "tune", "speed", "serve", "quality")
"""In their order on the page; the last two only where they are asked for."""
CONFIG_FILE = "tuned.yaml"
STAMPS_FILE = "parts.json"
PICTURES = {kind: f"{kind}.png" for kind in KINDS}


@dataclass(frozen=True)
class Size:
    """How much is measured. limits: prompts of each group. tokens: of an answer. longest: tokens of
    a prompt where speed is measured."""

    head_limit: int
    lossless_limit: int
    tokens: int
    temperatures: tuple[str, ...]
    tune_streams: tuple[int, ...]
    tune_rounds: int
    tune_tokens: int
    tune_lengths: int | None
    tune_cuts: tuple[str, ...]
    speed_streams: tuple[int, ...]
    speed_rounds: int
    speed_tokens: int
    least: int
    longest: int
    eager: bool
    serve_rates: tuple[str, ...] = ()


QUICK = Size(
    head_limit=4,
    lossless_limit=2,
    tokens=64,
    temperatures=("0",),
    tune_streams=(1, 8, 32, 64),
    tune_rounds=3,
    tune_tokens=16,
    tune_lengths=3,
    tune_cuts=("0.15",),
    speed_streams=(1, 8, 32, 64),
    speed_rounds=2,
    speed_tokens=16,
    least=4,
    longest=128,
    eager=True,
)
"""For 20 minutes of two cores and a model of 135 million parameters. Nothing is compiled, since
compiling takes each engine minutes there."""

FULL = Size(
    head_limit=8,
    lossless_limit=4,
    tokens=64,
    temperatures=("0", "1"),
    tune_streams=(1, 8, 32, 64),
    tune_rounds=5,
    tune_tokens=32,
    tune_lengths=None,
    tune_cuts=("0.15", "0.3"),
    speed_streams=(1, 8, 32, 64),
    speed_rounds=4,
    speed_tokens=48,
    least=8,
    longest=128,
    eager=False,
    serve_rates=("1", "inf"),
)
"""For an hour or so of the same machine if it is not made to compile; more where it is faster."""


def part_words(
    size: Size,
    common: Sequence[str],
    most: int,
    folder: Path,
    exam: Sequence[str] = (),
    cuts: bool = False,
) -> dict[str, list[str]]:
    """The command of each part, after `vllm-lmtp`.

    Args:
        common: target, heads, set and so on, for all of them.
        most: tokens of the heads' whole draft.
        folder: of the results.
        exam: all of `eval quality`'s arguments; none to leave it out.
        cuts: whether drafts can be cut where they are not confident enough.
    """
    output = ["--output", str(folder)]
    temperatures = ["--temperature", *size.temperatures]
    heads = ["--limit", str(size.head_limit), "--max-tokens", str(size.tokens)]
    lossless = ["--limit", str(size.lossless_limit), "--max-tokens", str(size.tokens)]
    loads = ["--longest", str(size.longest), "--least", str(size.least)]
    loads += ["--eager"] if size.eager else []
    lengths = spread_lengths(most, size.tune_lengths)
    tune = ["--streams", *map(str, size.tune_streams), "--rounds", str(size.tune_rounds)]
    tune += ["--max-tokens", str(size.tune_tokens), "--lengths", *map(str, lengths)]
    tune += ["--cuts", *size.tune_cuts] if cuts else []
    speed = ["--streams", *map(str, size.speed_streams), "--rounds", str(size.speed_rounds)]
    speed += ["--max-tokens", str(size.speed_tokens), "--config", str(folder / CONFIG_FILE)]
    words = {
        "heads": ["eval", "heads", *common, *output, *heads, *temperatures],
        "acceptance": ["eval", "acceptance", *common, *output, *heads, *temperatures],
        "lossless": ["eval", "lossless", *common, *output, *lossless],
        "tune": ["tune", *common, *output, *loads, *tune],
        "speed": ["eval", "speed", *common, *output, *loads, *speed],
    }
    if size.serve_rates:
        serve = ["--rates", *size.serve_rates, "--longest", str(size.longest)]
        serve += ["--eager"] if size.eager else []
        serve += ["--max-tokens", str(size.speed_tokens), "--config", str(folder / CONFIG_FILE)]
        words["serve"] = ["eval", "serve", *common, *output, *serve]
    if exam:
        words["quality"] = ["eval", "quality", *exam, *output]
    return words


def spread_lengths(most: int, count: int | None) -> list[int]:
    """`count` draft lengths from 1 to `most`, evenly spread and with the longest; None for all."""
    if count is None or count >= most:
        return list(range(1, most + 1))
    return sorted({max(1, round(most * (i + 1) / count)) for i in range(count)})


class Stamps:
    """By which command, on which files, each part of a folder was measured, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / STAMPS_FILE
        try:
            self._known = dict(json.loads(self.file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            self._known = {}

    def code(self, kind: str, facts: Mapping[str, Any]) -> int | None:
        """The exit code of the part if it is there and was measured so, else None."""
        known = self._known.get(kind)
        if self.written(kind) is None or not isinstance(known, dict):
            return None
        return int(known["code"]) if known.get("key") == key_of(facts) else None

    def note(self, kind: str, facts: Mapping[str, Any], code: int) -> None:
        """The part has just been measured so."""
        self._known[kind] = {"key": key_of(facts), "code": code}
        with room_for(self.file):
            write_json(self.file, self._known)

    def written(self, kind: str) -> int | None:
        """When its result was written, in ns; None where there is none."""
        result = self.folder / f"{kind}.json"
        return result.stat().st_mtime_ns if result.is_file() else None


def combine(title: str, pages: Mapping[str, str], failed: Mapping[str, str]) -> str:
    """One page of the parts' pages, each with its picture, their headings one level deeper."""
    lines = [f"# {title}", ""]
    for kind, why in failed.items():
        lines += [f"**{kind} was not measured**: {why}", ""]
    for kind in KINDS:
        if kind in pages:
            deeper = re.sub(r"^#", "##", pages[kind], flags=re.MULTILINE)
            heading, _, rest = deeper.partition("\n")
            lines += [heading, "", f"![{kind}]({PICTURES[kind]})", rest.rstrip(), ""]
    return "\n".join(lines)
