"""Speeds, on numbers whose results are known."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.engine_stand_in import QUESTIONS, SETTINGS, StandIn
from tests.support.known_speeds import ANSWERS, DRAFTED, PLAIN, speed_result, tune_result
from tests.support.random_models import EMBEDDED, fields, succeed
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.eval.engines import methods
from vllm_lmtp.eval.engines.cells import Cell, CellStore, cell_of, key_of
from vllm_lmtp.eval.engines.engine import ACCEPTED_TOKENS, DRAFT_TOKENS, DRAFTS, ENGINE_STEPS, Run
from vllm_lmtp.eval.engines.variants import read_variants
from vllm_lmtp.eval.measurements import speed
from vllm_lmtp.eval.measurements.rates import compare, over_rounds, summarise
from vllm_lmtp.eval.measurements.speed import Plan, differences, turned
from vllm_lmtp.eval.pages import report
from vllm_lmtp.observe.metrics import DRAFT_SECONDS


def test_speed_up_and_where_a_step_goes() -> None:
    found = summarise([DRAFTED], [PLAIN])
    assert found["tokens_per_second"]["median"] == 8
    assert found["speed_up"]["median"] == 2
    assert found["acceptance_length"] == 1 + 6 / 4
    assert found["efficiency"] == 2 / 2.5
    assert found["step_ms"] == 250
    assert found["draft_ms"] == pytest.approx(20)
    assert found["rest_ms"] == pytest.approx(250 - 1e3 * 0.1 / 4)
    assert found["answers"] == {"answers": 2, "identical": 2, "first_differences": []}


def test_plain_decoding_is_compared_with_nothing() -> None:
    found = summarise([PLAIN], None)
    assert found["step_ms"] == 250
    unknown = ("speed_up", "draft_ms", "rest_ms", "acceptance_length", "efficiency", "answers")
    assert [found[key] for key in unknown] == [None] * 6


def test_medians_of_ratios_of_the_same_round() -> None:
    """Rounds in which the machine was half as fast change both methods, and no ratio."""
    slow, fast = Cell(ANSWERS, 4.0, 8), Cell(ANSWERS, 2.0, 4, 4, 12, 6)
    found = summarise([DRAFTED, fast, DRAFTED], [PLAIN, slow, PLAIN])
    assert found["speed_up"] == {"median": 2, "least": 2, "most": 2, "rounds": [2, 2, 2]}
    assert found["tokens_per_second"] == {"median": 8, "least": 4, "most": 8, "rounds": [8, 4, 8]}
    assert over_rounds([3, 1, 2, 10])["median"] == 2.5


def test_differences_are_counted_with_their_places() -> None:
    other = Cell(((1, 2, 9, 4), (5, 6, 7)), 1.0, 4)
    found = compare([other, DRAFTED], [PLAIN, PLAIN])
    assert found == {"answers": 4, "identical": 2, "first_differences": [2, 3]}


def test_a_cell_is_what_the_engine_counted() -> None:
    counters: Counter[Any] = Counter({ENGINE_STEPS: 4, DRAFTS: 4, DRAFT_TOKENS: 12})
    counters.update({ACCEPTED_TOKENS: 6, DRAFT_SECONDS: 0.1, (DRAFT_SECONDS, "count"): 5})
    assert cell_of(Run([list(a) for a in ANSWERS], [], [], 1.0, counters)) == DRAFTED


def test_cells_are_kept_and_a_torn_line_is_not(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    store = CellStore(file)
    store.put("a", DRAFTED)
    store.put("b", PLAIN)
    file.write_bytes(file.read_bytes()[:-20])  # the process ended while it wrote
    store = CellStore(file)
    assert (store.get("a"), store.get("b")) == (DRAFTED, None)
    store.put("b", PLAIN)
    again = CellStore(file)
    assert (again.get("a"), again.get("b")) == (DRAFTED, PLAIN)


def test_a_key_changes_with_anything_it_is_made_of() -> None:
    facts = {"method": {"config": None}, "streams": 1}
    assert key_of(facts) == key_of(dict(reversed(facts.items())))
    assert key_of(facts) != key_of(facts | {"streams": 2})


def test_loads_have_as_many_requests_as_they_need() -> None:
    plan = Plan((1, 8, 64), 3, least=8, per_stream=2, eager=True, alive=None, threads=1)
    assert [plan.requests(streams) for streams in (1, 4, 64)] == [8, 8, 128]


# --- methods --------------------------------------------------------------------------------------


def test_methods_that_the_folder_and_the_machine_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find_spec", lambda name: None)
    found = methods.builtin_methods(read_variants([], str(EMBEDDED)))
    whole = "lmtp, whole drafts, scorer"
    names = ["plain", "lmtp", f"{whole} none", f"{whole} recurrent", "ngram", "suffix"]
    assert [m.name for m in found] == names
    assert [m.why_not is None for m in found] == [True] * 5 + [False]
    assert found[1].speculative_config == {"method": "lmtp"}
    fixed = {"method": "lmtp", "lmtp_draft_length": "fixed", "lmtp_scorer": "recurrent"}
    assert found[3].speculative_config == fixed
    # Or it would draft the answers of the rounds before.
    suffix = {"method": "suffix", "suffix_decoding_max_cached_requests": 0}
    assert found[5].speculative_config == suffix


def test_facts_name_no_folder_of_this_machine() -> None:
    method = methods.drafting_model(str(EMBEDDED), 3)
    config = method.facts()["speculative_config"]
    assert config == {"method": "draft_model", "model": "tiny", "num_speculative_tokens": 3}
    assert methods.eagle(str(EMBEDDED), 3).name == "eagle"


@pytest.mark.parametrize(
    ("given", "config"),
    [
        ("lmtp", {"method": "lmtp"}),
        ('{"method": "lmtp", "num_speculative_tokens": 2}', None),
        ({"method": "lmtp", "num_speculative_tokens": 2}, None),
    ],
)
def test_a_serve_configuration_is_a_method(given: Any, config: Any, tmp_path: Path) -> None:
    file = tmp_path / "tuned.yaml"
    file.write_text(yaml.safe_dump({"model": "m", "speculative-config": given}))
    expected = config or {"method": "lmtp", "num_speculative_tokens": 2}
    assert methods.configured(file).speculative_config == expected


def test_a_serve_configuration_without_drafts_is_plain(tmp_path: Path) -> None:
    file = tmp_path / "tuned.yaml"
    file.write_text("model: m\n")
    assert methods.configured(file).why_not is not None
    for text, field in (("[]", "content"), ("speculative-config: 3", "speculative-config")):
        file.write_text(text)
        with pytest.raises(LMTPError) as error:
            methods.configured(file)
        assert error.value.refusals[0].field == field


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [speed_result, tune_result])
def test_files_come_from_the_result_alone(make: Any, tmp_path: Path) -> None:
    made = make()
    report.check_output(tmp_path)
    files = report.save(made, tmp_path)
    assert report.render(report.read_result(files[0])) == files[1].read_text()
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_the_page_of_speeds() -> None:
    page = report.render(speed_result())
    assert "| l | 8.0 | 2.00 | 2.500 | 0.800 | 250.000 | 20.000 | 225.000 | 1 of 2; first" in page
    assert "first difference at token 2" in page
    assert "- suffix: not installed" in page
    assert differences(speed_result()) == 1


# --- bad input ------------------------------------------------------------------------------------


def test_bad_input(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before an engine starts."""
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the command sets them for its process
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    speeds, tune = ("eval", "speed", "--threads", "1"), ("tune", "--threads", "1")
    output = ("--output", tmp_path / "out")
    assert fields(capfd, *speeds, "--only", "nothing") == {"name"}
    assert fields(capfd, *speeds, "--method", "ngram={}", "--method", "x") == {"value"}
    assert fields(capfd, *speeds, "--method", "ngram={}") == {"name"}
    assert fields(capfd, *speeds, "--config", tmp_path / "none.yaml") == {"content"}
    assert fields(capfd, *speeds, "--longest", "1") == {"prompts"}
    assert fields(capfd, *tune) == {"--write"}
    assert fields(capfd, *tune, *output, "--rounds", "1") == {"--rounds"}
    assert fields(capfd, *tune, *output, "--lengths", "7") == {"draft length"}
    two = ("--heads", f"a={EMBEDDED}", "--heads", f"b={EMBEDDED}")
    assert fields(capfd, *tune, *output, *two) == {"--heads"}
    whole = ("eval", "report", "--output", tmp_path / "out", "--model")
    assert fields(capfd, *whole, tmp_path / "nothing") == {"path"}


def test_rendering_speeds_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.json"
    file.write_text(json.dumps(speed_result()))
    succeed("eval", "render", file)
    assert capfd.readouterr().out.startswith("# Speed")


# --- taking turns, with stand-ins for the engines -------------------------------------------------


TURNS = Plan((1, 8), 2, least=1, per_stream=1, eager=True, alive=None, threads=1)


def test_every_load_and_round_begins_with_another_method(
    stand_in: type[StandIn], tmp_path: Path
) -> None:
    compared = [methods.Method("plain"), methods.Method("lmtp", {"method": "lmtp"})]
    said: list[str] = []
    arguments = (compared, QUESTIONS, SETTINGS, TURNS, tmp_path / "cells.jsonl", said.append)
    found = speed.measure(*arguments)
    order = [(name, streams) for name, streams, _ in stand_in.calls]
    first, second = ("plain", "lmtp"), ("lmtp", "plain")
    assert order == [(n, s) for names in (first, second) for s in (1, 8) for n in names]
    assert len(said) == 8 + 2  # the cells, and two engines that start
    assert speed.measure(*arguments) == found
    assert len(stand_in.calls) == 8


@pytest.mark.parametrize(("count", "rounds"), [(2, 2), (3, 6), (8, 4)])
def test_turns_are_fair(count: int, rounds: int) -> None:
    """Over an even number of rounds every method's mean place is the same, and several begin."""
    orders = [turned(range(count), number) for number in range(rounds)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert {sum(o.index(item) for o in orders) for item in range(count)} == {
        rounds * (count - 1) // 2
    }
    assert len({order[0] for order in orders}) > 1


def test_a_method_that_cannot_start_is_listed(stand_in: type[StandIn]) -> None:
    stand_in.broken = "lmtp"
    compared = [methods.Method("plain"), methods.Method("lmtp", {"method": "lmtp"})]
    found = speed.measure(compared, QUESTIONS, SETTINGS, TURNS, None, lambda text: None)
    assert found["not_measured"] == [{"name": "lmtp", "why": "no such thing"}]
    assert {load["method"] for load in found["speed"]} == {"plain"}
