"""How tests share the machine, and a record of the layouts they started (`--layouts FILE`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HOSTS = re.compile(r"^tests/engine/.*\[(v1|v2-async|v2)\b")
"""A test whose id begins so uses one of the engine hosts of tests/engine/conftest.py."""
ENDS = pytest.StashKey[dict[tuple[str, ...], str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--layouts", type=Path, help="file that keeps how tests of layouts ended")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "layout(split, where, runner, model): its end is kept by --layouts"
    )
    config.stash[ENDS] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes each keeps together the tests of a file, or of a shared engine.

    (pytest-xdist 3.8's own groups have no effect under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shared = HOSTS.search(nodeid)
            return shared[1] if shared else nodeid.split("::")[0]

    return Together(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long tests come first, so that none is begun when the other processes have ended."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.parent.name != "engine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    for marker in item.iter_markers("layout"):
        ends = item.config.stash[ENDS]
        # Several tests may stand for one layout: it passed if all have.
        if report.failed:
            ends[marker.args] = "failed"
        elif report.when == "call":
            ends.setdefault(marker.args, report.outcome)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Rows of the tests that were run replace older ones; the others stay."""
    file = session.config.getoption("--layouts")
    ends = session.config.stash[ENDS]
    if file is None or not ends:
        return
    rows = {tuple(row[:-1]): row[-1] for row in json.loads(file.read_text())}
    rows |= ends
    lines = [json.dumps([*key, end]) for key, end in sorted(rows.items())]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")
