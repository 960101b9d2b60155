"""The models, some shared with the engine tests; every test here is marked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.checkpoint import Checkpoint
from tests.engine.conftest import chain, chain_folder

__all__ = ["chain", "chain_folder"]


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return Checkpoint()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.distributed)
