"""What was learnt can be written down and read again, and nothing else can."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.length.test_controller import world
from tests.support.engine_times.curves import LENGTHS
from tests.support.engine_times.steps import run
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.length.controller import Controller


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    controller = Controller(6)
    run(controller, world("two cores", 8, "high"), LENGTHS, steps=400)
    return json.loads(json.dumps(controller.state()))


def test_knowledge_goes_round(state: dict[str, Any]) -> None:
    again = Controller.from_state(state, LENGTHS).state()
    assert again["sizes"] == state["sizes"]
    assert again["lengths"] == state["lengths"]
    assert len(again["places"]) == 6


def test_a_warm_start_is_faster_than_a_cold_one(state: dict[str, Any]) -> None:
    of = world("two cores", 8, "high")
    cold = run(Controller(6), of, LENGTHS, steps=100, seed=5)
    warm = run(Controller.from_state(state, LENGTHS), of, LENGTHS, steps=100, seed=5)
    assert warm.of_best(0.0) > max(0.95, cold.of_best(0.0))


def test_knowledge_that_is_wrong_by_now_is_given_up(state: dict[str, Any]) -> None:
    of = world("compute-bound", 8, "low")
    done = run(Controller.from_state(state, LENGTHS), of, LENGTHS, steps=600)
    assert done.of_best(done.at[200]) >= 0.97


def test_a_controller_that_knows_nothing_can_be_written_down() -> None:
    assert Controller.from_state(Controller(6).state(), LENGTHS).choose(8) == 0


CHANGES: list[tuple[list[Any], Any, str]] = [
    (["version"], 2, "version"),
    (["version"], None, "version"),
    (["lengths"], [0, 1, 2], "lengths"),
    (["places"], {}, "places"),
    (["places"], [], "places"),
    (["places", 0], [0.5, 1.0], "places[0]"),
    (["places", 0, 0], 1.5, "places[0]"),
    (["places", 5, 1], -1.0, "places[5]"),
    (["places", 2, 2], float("nan"), "places[2]"),
    (["sizes"], [], "sizes"),
    (["sizes", "7"], {}, "sizes"),
    (["sizes", "8"], None, "sizes['8']"),
    (["sizes", "8", "noise"], 0, "sizes['8'].noise"),
    (["sizes", "8", "noise"], True, "sizes['8'].noise"),
    (["sizes", "8", "seconds"], [1.0], "sizes['8'].seconds"),
    (["sizes", "8", "seconds", 0], -0.1, "sizes['8'].seconds"),
    (["sizes", "8", "seconds", 3], float("inf"), "sizes['8'].seconds"),
    (["sizes", "8", "seconds", 3], "fast", "sizes['8'].seconds"),
]


@pytest.mark.parametrize(("path", "value", "field"), CHANGES)
def test_bad_knowledge_is_refused_by_name(
    state: dict[str, Any], path: list[Any], value: Any, field: str
) -> None:
    bad = copy.deepcopy(state)
    inner: Any = bad
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(LMTPError) as caught:
        Controller.from_state(bad, LENGTHS, "lengths.json")
    assert field in {refusal.field for refusal in caught.value.refusals}
    assert all(refusal.where == "lengths.json" for refusal in caught.value.refusals)


@pytest.mark.parametrize("bad", [[], "x", None])
def test_what_is_no_dictionary_is_refused(bad: Any) -> None:
    with pytest.raises(LMTPError, match="dictionary"):
        Controller.from_state(bad, LENGTHS)


def test_all_faults_are_named_at_once(state: dict[str, Any]) -> None:
    bad = copy.deepcopy(state) | {"lengths": [0], "places": 3}
    with pytest.raises(LMTPError) as caught:
        Controller.from_state(bad, LENGTHS)
    assert len(caught.value.refusals) == 2
