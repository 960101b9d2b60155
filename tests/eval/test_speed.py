"""Speeds, tuning and the report's parts, on numbers whose results are known."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.eval.test_report import FACTS, result
from tests.tools.models import EMBEDDED, fields, succeed
from vllm_lmtp.cli import tune
from vllm_lmtp.cli.engines import ACCEPTED_TOKENS, DRAFT_TOKENS, DRAFTS, ENGINE_STEPS, Run
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.eval import methods, parts, report, speed, tuning
from vllm_lmtp.eval.asking import Asked, Questions, Settings
from vllm_lmtp.eval.cells import Cell, CellStore, cell_of, key_of
from vllm_lmtp.eval.process import EngineFailedError
from vllm_lmtp.eval.rates import compare, over_rounds, summarise
from vllm_lmtp.eval.sets import EvalPrompt
from vllm_lmtp.eval.speed import Plan, differences, turned
from vllm_lmtp.eval.tuning import Setting
from vllm_lmtp.eval.variants import read_variants
from vllm_lmtp.metrics import DRAFT_SECONDS

ANSWERS = ((1, 2, 3, 4), (5, 6, 7, 8))
PLAIN = Cell(ANSWERS, 2.0, 8)
"""Eight tokens in two seconds and eight steps: 4 tokens/s, 250 ms a step."""
DRAFTED = Cell(ANSWERS, 1.0, 4, 4, 12, 6, 5, 0.1)
"""The same in one second and four steps; 6 of 12 draft tokens accepted; 20 ms a pass."""


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
    names = ["plain", "lmtp, scorer none", "lmtp, scorer markov", "ngram", "suffix"]
    assert [m.name for m in found] == names
    assert [m.why_not is None for m in found] == [True] * 4 + [False]
    assert found[2].speculative_config == {"method": "lmtp", "lmtp_scorer": "markov"}


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


# --- tuning ---------------------------------------------------------------------------------------


def swept(**seconds: tuple[float, ...]) -> dict[tuple[int, Setting], list[Cell]]:
    """Cells whose round took so many seconds; keys: s<batch size>_<length>, plain's length is p;
    a third part is the cut in percent."""
    found = {}
    for name, rounds in seconds.items():
        size, length, *cut = name[1:].split("_")
        setting = Setting(None if length == "p" else int(length), sum(map(int, cut)) / 100)
        found[int(size), setting] = [Cell(ANSWERS, s, 8, 2, 4, 2) for s in rounds]
    return found


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


# --- pages ----------------------------------------------------------------------------------------

PLAN = {
    "streams": [1], "rounds": 1, "per_stream": 1, "least": 2, "eager": True, "threads": 1,
}  # fmt: skip


def speed_result() -> dict[str, Any]:
    other = Cell(((1, 2, 9, 4), (5, 6, 7, 8)), 1.0, 4, 4, 12, 6, 5, 0.1)
    return result(
        "speed",
        plan=PLAN,
        methods=[methods.Method("plain").facts(), {"name": "l", "speculative_config": {"a": 1}}],
        not_measured=[{"name": "suffix", "why": "not installed"}],
        speed=[
            {"method": "plain", "streams": 1, **summarise([PLAIN], None)},
            {"method": "l", "streams": 1, **summarise([other], [PLAIN])},
        ],
    )


def tune_result(cuts: tuple[float, ...] = (0.0,)) -> dict[str, Any]:
    cells = swept(s1_p=(1.0, 1.0), s1_0=(1.0, 1.0), s1_2=(0.5, 0.5), s1_2_30=(0.4, 0.4))
    found = tuning.decide(cells, (1,), (2,), 0.03, cuts)
    config = {"method": "lmtp"}
    more = {"plan": PLAN, "heads": {"name": "h", **FACTS}, "speculative_config": config}
    return result("tune", **found, **more, verification=speed_result())


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


# --- the whole report -----------------------------------------------------------------------------


def test_parts_hand_over_the_tuned_configuration(tmp_path: Path) -> None:
    words = parts.part_words(parts.QUICK, ["--model", "m"], 6, tmp_path)
    assert list(words) == [k for k in parts.KINDS if k not in ("serve", "quality")]
    assert words["speed"][-2:] == ["--config", str(tmp_path / "tuned.yaml")]
    lengths = words["tune"][words["tune"].index("--lengths") + 1 :]
    assert lengths == ["2", "4", "6"]
    assert "--cuts" not in words["tune"]
    cut = parts.part_words(parts.QUICK, ["--model", "m"], 6, tmp_path, cuts=True)["tune"]
    assert cut[cut.index("--cuts") + 1] == "0.15"
    full = parts.part_words(parts.FULL, ["--model", "m"], 6, tmp_path)
    assert full["serve"][-2:] == words["speed"][-2:]
    assert list(parts.KINDS).index("tune") < list(parts.KINDS).index("speed")


@pytest.mark.parametrize(
    ("most", "count", "expected"),
    [(6, 3, [2, 4, 6]), (6, None, [1, 2, 3, 4, 5, 6]), (2, 3, [1, 2]), (5, 2, [2, 5])],
)
def test_lengths_reach_the_longest(most: int, count: int | None, expected: list[int]) -> None:
    assert parts.spread_lengths(most, count) == expected


def test_a_part_is_measured_again_when_its_command_or_files_change(tmp_path: Path) -> None:
    stamps = parts.Stamps(tmp_path)
    stamps.note("heads", {"words": ["a"]})
    assert not parts.Stamps(tmp_path).has("heads", {"words": ["a"]})  # its result is not there
    (tmp_path / "heads.json").write_text("{}")
    assert parts.Stamps(tmp_path).has("heads", {"words": ["a"]})
    assert not parts.Stamps(tmp_path).has("heads", {"words": ["b"]})


def test_one_page_of_all_parts() -> None:
    text = parts.combine("T", {"speed": "# Speed\n\n## A\n", "heads": "# Heads\n"}, {"tune": "x"})
    assert text.startswith("# T\n\n**tune was not measured**: x")
    assert text.index("## Heads") < text.index("## Speed") < text.index("### A")
    assert "![speed](speed.png)" in text


# --- bad input ------------------------------------------------------------------------------------


def test_bad_input(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before an engine starts."""
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE"):
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


def test_rendering_speeds_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.json"
    file.write_text(json.dumps(speed_result()))
    succeed("eval", "render", file)
    assert capfd.readouterr().out.startswith("# Speed")


# --- taking turns, with stand-ins for the engines -------------------------------------------------


class StandIn:
    """An engine that is faster the longer it drafts and the fewer its streams are."""

    calls: list[tuple[str, int, int]] = []  # noqa: RUF012
    broken: str | None = None

    def __init__(self, job: Any) -> None:
        config = job.speculative_config
        self.name = "plain" if config is None else "lmtp"
        self.length, self.cut = 0, 0.0
        if StandIn.broken == self.name:
            raise EngineFailedError("no such thing")

    def set_drafting(self, length: int, cut: float) -> None:
        assert self.name == "lmtp"
        self.length, self.cut = length, cut

    def stream(self, prompts: list[list[int]], streams: int, max_tokens: int) -> Run:
        if max_tokens > 8:  # not to warm up
            StandIn.calls.append((self.name, streams, self.length))
        seconds = (1 - self.cut) / (1 + self.length / streams)
        return Run([[1] * max_tokens for _ in prompts], [], [], seconds, Counter({ENGINE_STEPS: 9}))

    def close(self) -> None:
        pass


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr("vllm_lmtp.eval.speed.EngineProcess", StandIn)
    monkeypatch.setattr(StandIn, "calls", [])
    monkeypatch.setattr(StandIn, "broken", None)
    return StandIn


SETTINGS = Settings(str(EMBEDDED), 16, "float32", 8, 0, "raw")
QUESTIONS = Questions((Asked(EvalPrompt("a", "g", 0), [1, 2]),), {}, 64)
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
