"""Writes what the record of the features says into docs/compatibility.md.

python -m tests.features.table

The record (record.json) is kept by `make test-features`; a feature that no test has tried since
then stands in it as it last did.
"""

from __future__ import annotations

import json
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
RECORD = Path(__file__).with_name("record.json")
BEGIN, END = "<!-- features: python -m tests.features.table -->\n", "<!-- end of features -->\n"
RUNNERS = {
    "v1": "Runner V1 (CPU)",
    "v2": "Runner V2, scheduled at once",
    "v2-async": "Runner V2, asynchronous",
}
GROUPS = (
    "requests",
    "LoRA",
    "quantised targets",
    "sleep and reload",
    "KV connectors",
    "server",
    "multimodal",
    "faults",
)
NOT_RUN = "not run"
Record = dict[tuple[str, str, str], str]


def read(file: Path = RECORD) -> Record:
    """(group, name, runner) -> what its test said."""
    return {(row[0], row[1], row[2]): row[3] for row in json.loads(file.read_text())}


def render(record: Record) -> str:
    """The table: a row for every feature, in the order of the groups.

    Raises:
        ValueError: a group that is not in `GROUPS`.
    """
    rows = sorted({(GROUPS.index(group), name) for group, name, _ in record})
    lines = [f"| feature | {' | '.join(RUNNERS.values())} |", "|---" * (len(RUNNERS) + 1) + "|"]
    for number, name in rows:
        group = GROUPS[number]
        cells = [record.get((group, name, runner), NOT_RUN) for runner in RUNNERS]
        lines.append(f"| {group}: {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page_with(table: str, page: str) -> str:
    """The page with another table between the two marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + "\n" + table + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(page_with(render(read()), PAGE.read_text()))
