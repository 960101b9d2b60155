"""Engine hosts of each kind whose engines can be changed while they serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.client import EngineHost
from tests.engine.conftest import KINDS

RUNNERS = ["v1", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("v2", "v2-async"))]


def start_host(kind: str, log: Path, **more: Any) -> EngineHost:
    """A host of `operations_host.py`."""
    runner, asynchronous = KINDS[kind]
    return EngineHost(
        runner, asynchronous, log, module="tests.features.hosts.operations_host", **more
    )


@pytest.fixture(scope="module", params=RUNNERS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A module that imports this has hosts of its own."""
    host = start_host(request.param, tmp_path_factory.mktemp("logs") / f"{request.param}.log")
    yield host
    host.close()
