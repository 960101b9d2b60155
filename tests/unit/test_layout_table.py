"""The table of layouts says what the tests' record says, and no more."""

from __future__ import annotations

from tests.distributed.layouts import CHAIN, CHECKPOINT, FAULT, V1, V2, mark, pipeline, tensor
from tests.distributed.layouts import REFUSAL as REFUSED
from tests.distributed.table import PAGE, Record, page_with, read, render


def row(layout: str, record: Record) -> str:
    (found,) = [line for line in render(record).splitlines() if line.startswith(f"| {layout} |")]
    return found


def key(*test: object) -> tuple[str, ...]:
    return mark(*test).mark.args  # type: ignore[arg-type]


def test_what_was_not_run_is_not_claimed() -> None:
    lines = render({}).splitlines()[2:]
    assert len(lines) == 15
    assert all(line.endswith("| not run | not run | not run |") for line in lines)


def test_a_layout_is_exact_when_both_models_are() -> None:
    layout = tensor(2, nodes=2)
    record = {key(layout, V1, CHAIN): "passed"}
    assert "| chain exact, checkpoint not run | not run | not run |" in row(
        "TP 2, Ray, two nodes", record
    )
    record[key(layout, V1, CHECKPOINT)] = "passed"
    record[key(layout, V2, CHAIN)] = "failed"
    record[key(layout, V1, FAULT)] = "passed"
    assert "| exact | chain failed, checkpoint not run | passed |" in row(
        "TP 2, Ray, two nodes", record
    )


def test_a_refusal_is_told_as_such() -> None:
    record = {key(pipeline(2), V1, REFUSED): "passed"}
    assert "| refused | not run | not run |" in row("PP 2, processes of one node", record)


def test_the_page_shows_the_record() -> None:
    page = PAGE.read_text()
    assert page == page_with(render(read()), page), (
        "regenerate it: python -m tests.distributed.table"
    )
