"""Engines for the tests: one host process for each kind of runner, shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.client import EngineHost
from tests.support.chain.target import Chain, make_chain, save_chain

KINDS = {"v1": (1, False), "v2": (2, False), "v2-async": (2, True)}


SYNCHRONOUS = {
    "test_heads_and_strides",
    "test_prefix_cache",
    "test_preemption",
    "test_drafts_by_the_size_of_the_batch",
    "test_counters_are_what_transformers_recomputes",
    "test_text_target",
    "test_v2_has_no_way_to_cut",
}
"""What runner 2 is tested for without asynchronous scheduling by default: where scheduling matters,
and once each kind of draft. The rest of its tests in that mode are slow ones."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.engine)
        assert isinstance(item, pytest.Function)
        kind = getattr(item, "callspec", None) and item.callspec.params.get("host")
        if kind == "v2" and item.originalname not in SYNCHRONOUS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", params=list(KINDS))
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A host of each kind in turn: runner 1, runner 2, and runner 2 scheduled asynchronously."""
    runner, asynchronous = KINDS[request.param]
    log = tmp_path_factory.mktemp("logs") / f"{request.param}.log"
    host = EngineHost(runner, asynchronous, log)
    yield host
    host.close()


@pytest.fixture(scope="session")
def chain() -> Chain:
    """Three heads, stride 2, a quarter of their entries wrong."""
    return make_chain(3, 2)


@pytest.fixture(scope="session")
def chain_folder(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`chain` as a stage-1 folder."""
    return save_chain(chain, tmp_path_factory.mktemp("chain") / "stage1")
