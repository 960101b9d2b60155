"""How tests share the machine, and records of what they tried (`--layouts`, `--features` FILE)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HOSTS = re.compile(r"^tests/(?:engine|features)/.*\[(v1|v2-async|v2)\b")
"""A test whose id begins so uses one of the engine hosts of tests/engine/conftest.py."""
RECORDS = {
    "layout": "(split, where, runner, model): its end is kept by --layouts",
    "feature": "(group, name): how it stands on this runner is kept by --features",
}
"""Marks whose tests leave a row in a file, by the option of that name with an s."""
ENDS = pytest.StashKey[dict[str, dict[tuple[str, ...], str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    for mark in RECORDS:
        parser.addoption(f"--{mark}s", type=Path, help=f"file that keeps how each {mark} stands")


def pytest_configure(config: pytest.Config) -> None:
    for mark, meaning in RECORDS.items():
        config.addinivalue_line("markers", mark + meaning)
    config.stash[ENDS] = {mark: {} for mark in RECORDS}


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
    for mark, ends in item.config.stash[ENDS].items():
        for marker in item.iter_markers(mark):
            key = marker.args if mark == "layout" else (*marker.args, _runner(item))
            # Several tests may stand for one row: it passed if all have.
            if report.failed:
                ends[key] = "failed"
            elif report.when == "call" or report.skipped:
                ends.setdefault(key, _end(report))
    return report


def _runner(item: pytest.Item) -> str:
    """The kind of engine host that a test uses; what starts none of them runs on V1."""
    assert isinstance(item, pytest.Function)
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("host", "v1")) if callspec else "v1"


def _end(report: pytest.TestReport) -> str:
    """What the test says of its row itself, why it was skipped, or that it passed."""
    said = dict(report.user_properties).get("says")
    if report.skipped and isinstance(report.longrepr, tuple):
        said = str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(said or report.outcome)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Rows of the tests that were run replace older ones; the others stay."""
    for mark, ends in session.config.stash[ENDS].items():
        file = session.config.getoption(f"--{mark}s")
        if file is None or not ends:
            continue
        rows = {tuple(row[:-1]): row[-1] for row in json.loads(file.read_text())}
        rows |= ends
        lines = [json.dumps([*key, end], ensure_ascii=False) for key, end in sorted(rows.items())]
        file.write_text("[\n" + ",\n".join(lines) + "\n]\n")
