"""The cells of a comparison, kept as they are measured, so that a run that was stopped goes on.

A cell is one method at one load in one round. Each is a line of a file, under a key that holds
whatever its numbers depend on; lines under other keys are other measurements, and stay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.eval.engines.engine import ACCEPTED_TOKENS, DRAFT_TOKENS, DRAFTS, ENGINE_STEPS, Run
from vllm_lmtp.formats.whole import room_for
from vllm_lmtp.observe.metrics import DRAFT_SECONDS


@dataclass(frozen=True)
class Cell:
    """What one run of one engine counted.

    answers: token ids of each request, in the order of the prompts. seconds: wall time of all.
    steps: of the engine, each for all requests in flight. drafts, draft_tokens, accepted_tokens: as
    vLLM counts them. draft_passes, draft_seconds: drafting passes and their time together.
    """

    answers: tuple[tuple[int, ...], ...]
    seconds: float
    steps: int
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    draft_passes: int = 0
    draft_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of all answers."""
        return sum(map(len, self.answers))


def cell_of(run: Run) -> Cell:
    """The cell that an engine's run fills."""
    counters = run.counters
    return Cell(
        tuple(map(tuple, run.tokens)),
        run.seconds,
        counters[ENGINE_STEPS],
        counters[DRAFTS],
        counters[DRAFT_TOKENS],
        counters[ACCEPTED_TOKENS],
        counters[DRAFT_SECONDS, "count"],
        float(counters[DRAFT_SECONDS]),
    )


def key_of(facts: Mapping[str, Any]) -> str:
    """A key for whatever a cell depends on; facts: as JSON can hold them."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


class CellStore:
    """Cells by key, in memory and, where there is a file, in it.

    A line that was cut off by the end of a process is measured again.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._cells: dict[str, Cell] = {}
        text = file.read_text(encoding="utf-8") if file is not None and file.exists() else ""
        for line in text.splitlines():
            try:
                found = json.loads(line)
                answers = tuple(map(tuple, found["cell"].pop("answers")))
                self._cells[found["key"]] = Cell(answers, **found["cell"])
            except (ValueError, KeyError, TypeError):
                continue
        if file is not None and text and not text.endswith("\n"):
            with file.open("a", encoding="utf-8") as handle:
                handle.write("\n")

    def get(self, key: str) -> Cell | None:
        """The cell, if it was measured before."""
        return self._cells.get(key)

    def put(self, key: str, cell: Cell) -> None:
        """Keep a cell."""
        self._cells[key] = cell
        if self.file is not None:
            with room_for(self.file), self.file.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"key": key, "cell": asdict(cell)}) + "\n")
