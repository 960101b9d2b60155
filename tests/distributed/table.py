"""Writes what the record of the layouts says into docs/compatibility.md.

python -m tests.distributed.table

The record (record.json) is kept by `make test-distributed`; a layout that no test has started since
then stands in it as it last ended.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.distributed.layouts import (
    CHAIN,
    CHECKPOINT,
    DATA,
    FAULT,
    ONE_NODE,
    PROCESSES,
    REFUSAL,
    RUNNERS,
    TENSOR_AND_PIPELINE,
    TWO_NODES,
    V1,
    pipeline,
    tensor,
)

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
RECORD = Path(__file__).with_name("record.json")
BEGIN, END = "<!-- layouts: python -m tests.distributed.table -->\n", "<!-- end of layouts -->\n"

SPLITS = [layout.split for layout in (tensor(2), tensor(4), pipeline(2), TENSOR_AND_PIPELINE, DATA)]
WHERE = [PROCESSES, ONE_NODE, TWO_NODES]
MODELS = [CHAIN, CHECKPOINT]
Record = dict[tuple[str, ...], str]


def read(file: Path = RECORD) -> Record:
    """(split, where, runner, model) -> how its test ended."""
    return {tuple(row[:-1]): row[-1] for row in json.loads(file.read_text())}


def render(record: Record) -> str:
    """The table: a row for every split and place, started or not."""
    lines = [
        f"| layout | {' | '.join(RUNNERS.values())} | faults |",
        "|---" * (len(RUNNERS) + 2) + "|",
    ]
    for split in SPLITS:
        for where in WHERE:
            cells = [_cell(record, split, where, runner) for runner in RUNNERS.values()]
            fault = record.get((split, where, RUNNERS[V1], FAULT), "not run")
            lines.append(f"| {split}, {where} | {' | '.join(cells)} | {fault} |")
    return "\n".join(lines) + "\n"


def _cell(record: Record, split: str, where: str, runner: str) -> str:
    if record.get((split, where, runner, REFUSAL)) == "passed":
        return "refused"
    ends = {model: record.get((split, where, runner, model), "not run") for model in MODELS}
    if set(ends.values()) == {"passed"}:
        return "exact"
    if set(ends.values()) == {"not run"}:
        return "not run"
    words = {"passed": "exact"}
    return ", ".join(f"{model} {words.get(end, end)}" for model, end in ends.items())


def page_with(table: str, page: str) -> str:
    """The page with another table between the two marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + "\n" + table + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(page_with(render(read()), PAGE.read_text()))
