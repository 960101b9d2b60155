"""vLLM's features beside L-MTP: each test says how its row of the compatibility table stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import host as host  # pytest finds fixtures by name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engine)
            if item.path.name != "test_table.py":
                item.add_marker(pytest.mark.slow)  # `make test-features` runs them


@pytest.fixture
def says(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Writes a row's cell: what was seen to hold on this runner, or what vLLM refuses and how."""
    return lambda words: record_property("says", words)
