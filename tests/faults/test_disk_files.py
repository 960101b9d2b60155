"""A disk that is full at any write of a single file: a result, settings, a picture."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.faults.disk import content, full_at
from tests.faults.test_disk_tools import check
from tests.support.engine_times.curves import CURVES, LENGTHS, geometric
from tests.support.engine_times.steps import World, run
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.length.controller import Controller

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize("name", ["smollm2/mt_bench/heads", "smollm2/mt_bench/acceptance"])
def test_the_result_of_a_measurement(name: str, tmp_path: Path) -> None:
    """JSON, page, pictures and what other tools read: each is the old one or the new one."""
    from vllm_lmtp.eval.pages.report import read_result, save

    result = read_result(RESULTS / f"{name}.json")
    files = save(result, tmp_path)
    whole = content(tmp_path)
    for file in files:
        file.write_bytes(b"older")
    names = sorted(whole)

    def each_is_whole() -> list[str]:
        found = content(tmp_path)
        assert all(value in (b"older", whole[key]) for key, value in found.items())
        return sorted(found)

    assert each_is_whole() == names
    assert check(lambda: save(result, tmp_path), tmp_path, tmp_path, each_is_whole) >= 3
    assert content(tmp_path) == whole


def test_the_page_and_the_stamps_of_a_whole_report(tmp_path: Path) -> None:
    from vllm_lmtp.cli.evaluate.whole_report import _page
    from vllm_lmtp.eval.pages.parts import Stamps
    from vllm_lmtp.eval.pages.report import read_result, save

    save(read_result(RESULTS / "smollm2/mt_bench/heads.json"), tmp_path)
    args = argparse.Namespace(output=tmp_path)
    stamps = Stamps(tmp_path)
    for act in (lambda: _page(args, "m", ["heads"], {}), lambda: stamps.note("heads", {}, 0)):
        act()
        assert check(act, tmp_path, tmp_path) == 1


def test_the_configuration_that_tune_writes(tmp_path: Path) -> None:
    from vllm_lmtp.cli.tune import write_config

    args = argparse.Namespace(
        words=["tune"], seed=0, model="m", dtype="float32", streams=[1], eager=True
    )
    found = {"loads": [], "chosen": [], "cut": None}
    file = tmp_path / "tuned.yaml"
    file.write_text("older")
    assert check(lambda: write_config(file, args, None, found), file, tmp_path) == 1
    assert "model: m" in file.read_text()


def test_a_picture_of_a_tool(tmp_path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from vllm_lmtp.tools.fit.heatmap import save_picture

    figure, _ = pyplot.subplots()
    file = tmp_path / "map.png"
    file.write_text("older")
    assert check(lambda: save_picture(figure, file), file, tmp_path) == 1
    pyplot.close(figure)


def test_cells_that_were_measured_stay(tmp_path: Path) -> None:
    """A line that was begun is passed over, and the next one stands for itself."""
    from vllm_lmtp.eval.engines.cells import Cell, CellStore

    file, cell = tmp_path / "cells.jsonl", Cell(((1, 2),), 1.0, 3)
    CellStore(file).put("first", cell)
    store = CellStore(file)
    with full_at(0, tmp_path), pytest.raises(LMTPError, match=r"cells\.jsonl.*No space left"):
        store.put("second", cell)
    again = CellStore(file)
    assert (again.get("first"), again.get("second")) == (cell, None)
    again.put("third", cell)
    last = CellStore(file)
    assert [last.get(key) for key in ("first", "second", "third")] == [cell, None, cell]


def test_what_an_engine_learnt_of_its_draft_length(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lost with a word, and what the file held before is not."""
    from vllm_lmtp.scheduler import warm_start

    learnt = Controller(6)
    run(learnt, World(CURVES["knee"], geometric(0.5), lambda at: 2), LENGTHS, steps=50)
    keeper = warm_start.WarmStart(tmp_path / "length.json", {"model": "m"})
    keeper.save(learnt)
    before = content(tmp_path)
    monkeypatch.setattr(warm_start.logger, "handlers", [caplog.handler])
    run(learnt, World(CURVES["knee"], geometric(0.5), lambda at: 2), LENGTHS, steps=50)
    # `doctor` quietens vLLM in its whole process, and another test of this one may have called it.
    heard = caplog.at_level(logging.WARNING, warm_start.logger.name)
    with full_at(0, tmp_path) as count, heard:
        keeper.save(learnt)
    assert count.failed
    assert content(tmp_path) == before
    assert "No space left on device" in caplog.text
    assert keeper.controller(learnt.lengths) is not None


def test_the_plan_and_the_prompts_of_a_recipe(tmp_path: Path) -> None:
    from vllm_lmtp.formats.whole import room_for
    from vllm_lmtp.tools.recipe.make import given_sets
    from vllm_lmtp.tools.recipe.plan import Plan

    given, work = tmp_path / "given.jsonl", tmp_path / "work"
    given.write_text('{"prompt": "a"}\n' * 100)
    work.mkdir()
    assert check(lambda: given_sets([str(given)], work), work, work, lambda: files(work)) == 1
    number = iter(range(100))

    def decide() -> None:
        with room_for(work):
            Plan(work / "plan.json", {}, 60.0).decide(f"shards {next(number)}", lambda: 3)

    decide()
    assert check(decide, work, work) == 1


def files(folder: Path) -> dict[str, bytes]:
    return {name: text for name, text in content(folder).items() if text}


def test_the_settings_of_a_run(tmp_path: Path) -> None:
    from vllm_lmtp.formats.whole import room_for
    from vllm_lmtp.training.resume import must_be_as_begun

    @dataclasses.dataclass
    class Settings:
        steps: int

    def begin() -> None:
        with room_for(tmp_path):
            must_be_as_begun(tmp_path / "settings.json", Settings(3), begun=False)

    assert check(begin, tmp_path, tmp_path) == 1
    assert json.loads((tmp_path / "settings.json").read_text()) == {"steps": 3}


def test_the_metadata_for_the_command_of_a_cpu_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it would be a distribution without a version, for ever."""
    from vllm_lmtp.runner_v1 import cpu_command

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    found = SimpleNamespace(version="9.9", locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr(cpu_command.metadata, "version", version)
    monkeypatch.setattr(cpu_command.metadata, "distribution", lambda name: found)
    assert check(cpu_command.ensure_metadata, tmp_path, tmp_path) == 3
    (folder,) = tmp_path.glob("vllm-*.dist-info")
    assert "Version: 9.9+cpu" in (folder / "METADATA").read_text()


def test_a_trainer_checkpoint_whose_last_file_is_cut(tmp_path: Path) -> None:
    from vllm_lmtp.training.runs.trainer import last_checkpoint

    for step, state in ((2, '{"global_step": 2}'), (4, '{"global_st')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
