"""docs/compatibility.md says of the features what their record says."""

from __future__ import annotations

from tests.features.table import PAGE, page_with, read, render


def test_the_page_shows_the_record() -> None:
    page = PAGE.read_text()
    assert page == page_with(render(read()), page), "python -m tests.features.table"
