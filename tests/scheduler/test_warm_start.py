"""What one engine learnt, in a file for the next one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine_times.curves import CURVES, LENGTHS, geometric
from tests.support.engine_times.steps import World, run
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.length.controller import Controller
from vllm_lmtp.length.file import Saved, read_file, write_file
from vllm_lmtp.scheduler.warm_start import WarmStart

ENGINE = {"model": "m", "device": "two cores"}


@pytest.fixture(scope="module")
def learnt() -> Controller:
    controller = Controller(6)
    run(controller, World(CURVES["memory-bound"], geometric(0.8)), LENGTHS, steps=300)
    assert controller.in_use(1) > 2
    return controller


def test_the_next_engine_begins_where_the_last_one_ended(
    learnt: Controller, tmp_path: Path
) -> None:
    file = WarmStart(tmp_path / "length.json", ENGINE)
    assert file.controller(LENGTHS) is None
    file.save(learnt)
    warm = file.controller(LENGTHS)
    assert warm is not None
    warm.choose(1)
    assert warm.in_use(1) == learnt.in_use(1)
    assert list(tmp_path.iterdir()) == [file.path]


@pytest.mark.parametrize("engine", [{"model": "other", "device": "two cores"}, {"model": "m"}])
def test_another_engine_does_not_believe_it(
    learnt: Controller, tmp_path: Path, engine: dict[str, str]
) -> None:
    path = tmp_path / "length.json"
    WarmStart(path, engine).save(learnt)
    assert WarmStart(path, ENGINE).controller(LENGTHS) is None


def test_nor_does_one_of_other_lengths(learnt: Controller, tmp_path: Path) -> None:
    file = WarmStart(tmp_path / "length.json", ENGINE)
    file.save(learnt)
    assert file.controller((0, 1, 2)) is None


def test_nor_does_a_later_version_whose_words_mean_something_else(
    learnt: Controller, tmp_path: Path
) -> None:
    file = WarmStart(tmp_path / "length.json", ENGINE)
    write_file(file.path, Saved(ENGINE, learnt.state() | {"version": 99, "places": "other"}))
    assert file.controller(LENGTHS) is None


def test_nothing_learnt_replaces_nothing(tmp_path: Path) -> None:
    file = WarmStart(tmp_path / "length.json", ENGINE)
    file.save(Controller(6))
    assert not file.path.exists()


def test_a_file_that_cannot_be_written_stops_nothing(learnt: Controller, tmp_path: Path) -> None:
    WarmStart(tmp_path / "no" / "folder" / "length.json", ENGINE).save(learnt)


def damaged(whole: dict[str, Any], where: str) -> Any:
    if where == "not JSON":
        return "{"
    if where == "another file":
        return json.dumps([1])
    if where == "kind":
        whole["kind"] = "a table"
    elif where == "engine":
        whole["engine"] = ["m"]
    elif where == "state":
        whole["state"] = None
    else:
        whole["state"][where] = "?"
    return json.dumps(whole)


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ("not JSON", "the whole"),
        ("another file", "kind"),
        ("kind", "kind"),
        ("engine", "engine"),
        ("state", "state"),
        ("version", "version"),
        ("lengths", "lengths"),
        ("places", "places"),
        ("sizes", "sizes"),
    ],
)
def test_what_is_no_such_file_is_refused_by_name(
    learnt: Controller, tmp_path: Path, where: str, field: str
) -> None:
    path = tmp_path / "length.json"
    write_file(path, Saved(ENGINE, learnt.state()))
    path.write_text(damaged(json.loads(path.read_text()), where))
    with pytest.raises(LMTPError) as refused:
        read_file(path)
    found = refused.value.refusals
    assert str(path) in found[0].where
    assert field in {refusal.field for refusal in found}


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LMTPError, match="the file"):
        read_file(tmp_path)
