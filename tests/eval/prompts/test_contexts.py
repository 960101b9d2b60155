"""Prompts of a given length, and speeds by them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.engine_stand_in import SETTINGS
from tests.support.known_speeds import DRAFTED, PLAIN
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.eval.engines.engine import ENGINE_STEPS, Run
from vllm_lmtp.eval.engines.methods import Method
from vllm_lmtp.eval.measurements import speed
from vllm_lmtp.eval.measurements.rates import summarise
from vllm_lmtp.eval.measurements.speed import Plan
from vllm_lmtp.eval.pages.speed import speed_ups
from vllm_lmtp.eval.prompts.asking import ROOM_FOR_DRAFT, Asked, Questions
from vllm_lmtp.eval.prompts.contexts import make_room, prompts
from vllm_lmtp.eval.prompts.sets import EvalPrompt

OWN = ([1, 2, 3], [4, 5], [6])


def questions(context: int = 64) -> Questions:
    asked = tuple(Asked(EvalPrompt("a", "g", n), tokens) for n, tokens in enumerate(OWN))
    return Questions(asked, {}, context)


def test_as_they_are() -> None:
    assert prompts(questions(), 5) == [[1, 2, 3], [4, 5], [6], [1, 2, 3], [4, 5]]


def test_from_a_place_on() -> None:
    assert prompts(questions(), 4, first=2) == [[6], [1, 2, 3], [4, 5], [6]]
    assert prompts(questions(), 2, 2, first=7) == [[4, 5], [3, 6]]


def test_every_round_asks_those_that_come_next() -> None:
    """All methods the same; a cell of a later round is none of the time when it asked the first."""
    plan = Plan((1, 2), 3, least=2, per_stream=2, eager=True, alive=None, threads=1)
    one, two, three = OWN
    asked = [plan.asked(questions(), 1, None, number) for number in range(3)]
    assert asked == [[one, two], [three, one], [two, three]]
    loads = plan.all_asked(questions())
    assert loads[:3] == [(prompts, 1) for prompts in asked]
    assert loads[4] == ([two, three, one, two], 2)
    facts = [plan.turn_facts(2, number) for number in range(2)]
    assert facts == [{"streams": 2, "round": 0}, {"streams": 2, "round": 1, "first": 4}]


def test_groups_take_turns() -> None:
    """However few are asked, no group is asked twice more than another that has as many."""
    groups = ("a", "a", "a", "b", "c", "c")
    asked = tuple(Asked(EvalPrompt("p", g, n), [n]) for n, g in enumerate(groups))
    found = prompts(Questions(asked, {}, 64), 7)
    assert found == [[0], [3], [4], [1], [5], [2], [0]]


def test_a_cell_depends_on_the_order_in_which_prompts_are_asked() -> None:
    plan = Plan((1,), 1, 1, 1, True, None, 1)
    cells = [
        speed.common_facts(Questions(asked, {}, 64), SETTINGS, plan)
        for groups in ("aab", "aba")
        for asked in [tuple(Asked(EvalPrompt("p", g, n), [n]) for n, g in enumerate(groups))]
    ]
    assert cells[0] != cells[1]


def test_the_question_stays_at_the_end() -> None:
    """Those after it stand before it, the nearest last, and the front is cut."""
    assert prompts(questions(), 3, 5) == [[6, 4, 5, 1, 2, 3][1:], [2, 3, 6, 4, 5], [5, 1, 2, 3, 6]]
    assert prompts(questions(), 4, 2) == [[2, 3], [4, 5], [3, 6], [2, 3]]
    assert {len(p) for p in prompts(questions(), 7, 40)} == {40}
    assert prompts(questions(), 1, 40)[0][-3:] == [1, 2, 3]


def test_engines_have_room_for_the_longest() -> None:
    assert make_room(questions(), SETTINGS, (None,)) == questions()
    found = make_room(questions(), SETTINGS, (32, 100))
    assert found.context == 100 + SETTINGS.max_tokens + ROOM_FOR_DRAFT
    with pytest.raises(LMTPError, match="--contexts: tokens: found 100000"):
        make_room(questions(), SETTINGS, (100_000,))


class SlowOnLongPrompts:
    """An engine whose time is the tokens of its prompts; with drafts, half of that."""

    def __init__(self, job: Any) -> None:
        self.share = 1.0 if job.speculative_config is None else 0.5

    def stream(self, asked: list[list[int]], streams: int, max_tokens: int) -> Run:
        seconds = self.share * sum(map(len, asked))
        return Run([[1] * max_tokens for _ in asked], [], [], seconds, Counter({ENGINE_STEPS: 9}))

    def close(self) -> None:
        pass


def test_every_load_with_every_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_lmtp.eval.measurements.speed.EngineProcess", SlowOnLongPrompts)
    plan = Plan((1, 4), 2, 1, 1, eager=True, alive=None, threads=1, contexts=(8, 16))
    methods = [Method("plain"), Method("lmtp", {"method": "lmtp"})]
    found = speed.measure(methods, questions(), SETTINGS, plan, None, lambda text: None)
    rates = {
        (s["streams"], s["context"], s["method"]): s["tokens_per_second"]["median"]
        for s in found["speed"]
    }
    assert len(rates) == 2 * 2 * 2
    for (_, context, method), rate in rates.items():
        assert rate == SETTINGS.max_tokens / (context * (1 if method == "plain" else 0.5))
    assert {s["speed_up"]["median"] for s in found["speed"] if s["speed_up"]} == {2.0}


def test_a_table_for_each_context() -> None:
    loads = [
        {"method": name, "streams": 1, "context": context, **summarise([cell], plain)}
        for context in (8, 16)
        for name, cell, plain in (("plain", PLAIN, None), ("l", DRAFTED, [PLAIN]))
    ]
    made = {
        "plan": {"streams": [1], "contexts": [8, 16]},
        "methods": [{"name": "plain"}, {"name": "l"}],
        "speed": loads,
    }
    text = "\n".join(speed_ups(made))
    assert text.count("| l | 2.00 |") == 2
    assert "Prompts of 16 tokens:" in text
