"""Tuning: what it decides of known speeds, what it measures, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.eval.pages.test_report import FACTS, result
from tests.support.engine_stand_in import QUESTIONS, SETTINGS, StandIn
from tests.support.known_speeds import PLAN, swept, tune_result
from tests.support.random_models import EMBEDDED
from vllm_lmtp.cli import tune
from vllm_lmtp.eval.engines.engine import Run
from vllm_lmtp.eval.engines.variants import read_variants
from vllm_lmtp.eval.measurements import tuning
from vllm_lmtp.eval.measurements.speed import WARM_UP_TOKENS, Plan
from vllm_lmtp.eval.measurements.tuning import Setting
from vllm_lmtp.eval.pages import report
from vllm_lmtp.eval.prompts.asking import Asked, Questions
from vllm_lmtp.eval.prompts.sets import EvalPrompt


def test_a_length_must_beat_both_baselines() -> None:
    cells = swept(
        s1_p=(1.0, 1.0), s1_0=(1.0, 1.0), s1_2=(0.8, 0.8), s1_4=(0.5, 0.5),
        s8_p=(1.0, 1.0), s8_0=(2.0, 2.0), s8_2=(1.2, 1.2), s8_4=(0.9, 0.9),
        s64_p=(1.0, 2.0), s64_0=(2.0, 1.0), s64_2=(1.1, 1.1), s64_4=(1.5, 1.5),
    )  # fmt: skip
    found = tuning.decide(cells, (1, 8, 64), (2, 4), 0.03)
    assert found["chosen"] == [
        {"streams": 1, "length": 4},
        {"streams": 8, "length": 4},
        {"streams": 64, "length": 0},  # faster than either in its bad round, never than both
    ]
    assert found["schedule"] == [[1, 8, 4], [9, 64, 0]]
    by_place = {(load["streams"], load["length"]): load for load in found["loads"]}
    assert by_place[8, 4]["speed_up"]["median"] == pytest.approx(1 / 0.9)
    assert by_place[8, 0]["speed_up"]["median"] == 0.5


def test_the_tuned_config_drafts_no_more_than_it_ever_wants() -> None:
    (variant,) = read_variants([], str(EMBEDDED))
    assert tuning.tuned(variant, [(1, 8, 4), (9, 64, 0)]) == {
        "method": "lmtp",
        "num_speculative_tokens": 4,
        "num_speculative_tokens_per_batch_size": [[1, 8, 4], [9, 64, 0]],
    }
    assert tuning.tuned(variant, [(1, 64, 0)], 0.3) is None
    cut = tuning.tuned(variant, [(1, 8, 4)], 0.3)
    assert cut is not None
    assert cut["lmtp_min_confidence"] == 0.3


def test_the_cut_that_pays_is_chosen_with_its_lengths() -> None:
    cells = swept(
        s1_p=(1.0, 1.0), s1_0=(1.0, 1.0), s1_2=(0.8, 0.8), s1_6=(0.5, 0.5), s1_2_30=(0.7, 0.7),
        s1_6_30=(0.52, 0.52),
        s8_p=(1.0, 1.0), s8_0=(1.1, 1.1), s8_2=(1.1, 1.1), s8_6=(2.0, 2.0), s8_2_30=(0.9, 0.9),
        s8_6_30=(0.8, 0.8),
    )  # fmt: skip
    found = tuning.decide(cells, (1, 8), (2, 6), 0.03, (0.0, 0.3))
    assert found["cut"] == 0.3
    assert [entry["length"] for entry in found["chosen"]] == [6, 6]
    assert len(found["loads"]) == 2 * 5
    without = tuning.decide(cells, (1, 8), (2, 6), 0.03)
    assert [entry["length"] for entry in without["chosen"]] == [6, 0]


def test_what_the_first_round_shows_to_be_hopeless_is_given_up() -> None:
    first = swept(
        s1_p=(1.0,), s1_0=(1.1,), s1_2=(0.8,), s1_6=(1.2,),
        s8_p=(1.0,), s8_0=(1.0,), s8_2=(1.1,), s8_6=(1.3,),
    )  # fmt: skip
    expected = {
        (1, 0): False, (1, 2): False, (1, 6): True,
        (8, 0): False, (8, 2): False, (8, 6): True,
        (64, 0): False, (64, 2): True, (64, 6): True,  # at 8 nothing came within 5 %
    }  # fmt: skip
    for (size, length), given_up in expected.items():
        assert tuning._hopeless(first, size, Setting(length)) is given_up, (size, length)
    assert not tuning._hopeless(first, 64, Setting(None))
    lengths = [Setting(None), *map(Setting, (0, 2, 6))]
    assert [tuning._contended(first, size, lengths) for size in (1, 8, 64)] == [True, True, False]


def test_a_batch_size_that_nothing_contends_for_has_one_round(stand_in: type[StandIn]) -> None:
    stand_in.gain = -0.2
    (variant,) = read_variants([], str(EMBEDDED))
    plan = Plan((1, 8), 3, least=1, per_stream=1, eager=True, alive=None, threads=1)
    found = tuning.measure(variant, QUESTIONS, SETTINGS, plan, (1, 2), 0.1, None, lambda text: None)
    calls = [("plain", 1, 0), ("lmtp", 1, 0), ("lmtp", 1, 1), ("lmtp", 1, 2)]
    assert stand_in.calls == [*calls, ("plain", 8, 0), ("lmtp", 8, 0)]
    assert found["chosen"] == [{"streams": 1, "length": 0}, {"streams": 8, "length": 0}]
    assert [load["given_up"] for load in found["loads"] if load["length"]] == [True, True]


def test_a_setting_that_was_given_up_is_never_chosen() -> None:
    cells = swept(
        s1_p=(1.0, 1.0), s1_0=(1.0, 1.0), s1_2=(0.8, 0.8), s1_6=(1.5,),
        s8_p=(1.0, 1.0), s8_0=(1.0, 1.0),
    )  # fmt: skip
    found = tuning.decide(cells, (1, 8), (2, 6), 0.03)
    assert [entry["length"] for entry in found["chosen"]] == [2, 0]
    more = {"plan": PLAN, "heads": {"name": "h", **FACTS}, "speculative_config": None}
    page = report.render(result("tune", **found, **more))
    assert "| 1.25 (1.25-1.25) | 0.67, given up | 2.000 | 2 |" in page
    assert "| 1.00 (1.00-1.00) | - | - | - | 0 |" in page


def test_a_sweep_of_known_speeds(stand_in: type[StandIn], tmp_path: Path) -> None:
    """Speed is 1 + length / streams: the longest draft pays alone, and 6 of 64 gain under 10 %."""
    (variant,) = read_variants([], str(EMBEDDED))
    plan = Plan((1, 64), 3, least=1, per_stream=1, eager=True, alive=None, threads=1)
    arguments = (variant, QUESTIONS, SETTINGS, plan, (2, 6), 0.1, tmp_path / "c", lambda text: None)
    found = tuning.measure(*arguments)
    assert found["chosen"] == [{"streams": 1, "length": 6}, {"streams": 64, "length": 0}]
    found_cut = tuning.measure(*arguments[:-2], None, arguments[-1], (0.5,))
    assert (found_cut["cut"], found_cut["chosen"]) == (0.5, [
        {"streams": 1, "length": 6}, {"streams": 64, "length": 6},
    ])  # fmt: skip
    del stand_in.calls[3 * 2 * 4 :]
    swept_lengths = {(name, length) for name, _, length in stand_in.calls}
    assert swept_lengths == {("plain", 0), ("lmtp", 0), ("lmtp", 2), ("lmtp", 6)}
    assert len(stand_in.calls) == 3 * 2 * 4
    assert tuning.measure(*arguments) == found
    assert len(stand_in.calls) == 3 * 2 * 4


def test_all_settings_of_a_round_are_asked_the_same(
    stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[list[list[int]]] = []

    def stream(self: StandIn, prompts: list[list[int]], streams: int, max_tokens: int) -> Run:
        if max_tokens > WARM_UP_TOKENS:
            heard.append(prompts)
        return answers(self, prompts, streams, max_tokens)

    answers = StandIn.stream
    monkeypatch.setattr(StandIn, "stream", stream)
    (variant,) = read_variants([], str(EMBEDDED))
    asked = tuple(Asked(EvalPrompt("a", "g", n), [n]) for n in range(3))
    plan = Plan((1,), 2, least=2, per_stream=1, eager=True, alive=None, threads=1)
    questions = Questions(asked, {}, 64)
    tuning.measure(variant, questions, SETTINGS, plan, (2,), 0.1, None, lambda text: None)
    assert heard == 3 * [[[0], [1]]] + 3 * [[[2], [0]]]


def test_the_page_of_tuning() -> None:
    page = report.render(tune_result())
    assert "| 1 | 8.0 (8.0-8.0) | 1.00 (1.00-1.00) | 2.00 (2.00-2.00) | 2.000 | 2 |" in page
    assert "| l | 2.00 |" in page.split("## Against plain decoding")[1]


def test_the_page_of_a_cut() -> None:
    made = tune_result((0.0, 0.3))
    whole, cut = report.render(made).split("## Drafts cut at 0.3")
    assert "(2.00-2.00) | 2.000 | - |" in whole
    assert "2.50 (2.50-2.50) | 2.000 | 2 |" in cut
    assert tune._reasons(made) == ["#   1: 2 draft token(s) cut at 0.3, 2.50"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--least-gain", "-0.1"), ("--least-gain", "1"), ("--least-gain", "much")]
    + [("--cuts", value) for value in ("0", "1", "nan", "some")],
)
def test_impossible_shares(option: str, value: str, capfd: pytest.CaptureFixture[str]) -> None:
    from vllm_lmtp.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["tune", option, value])
    assert stop.value.code == 2
    assert f"{value!r} is not a" in capfd.readouterr().err
