"""Load on servers that are stand-ins over HTTP: each fault of theirs is found and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.eval.trust.stand_in_server import StandInServer
from vllm_lmtp.eval.engines.methods import Method
from vllm_lmtp.eval.engines.process import EngineFailedError
from vllm_lmtp.eval.pages import report
from vllm_lmtp.eval.provenance import provenance
from vllm_lmtp.eval.trust import soak
from vllm_lmtp.eval.trust.mixture import some_requests
from vllm_lmtp.eval.trust.outcome import is_fault, outcome
from vllm_lmtp.eval.trust.plan import Adapter, Plan, options_of
from vllm_lmtp.eval.trust.trial import Conditions
from vllm_lmtp.method.leap import LeapSchedule

CONDITIONS = Conditions("model", "float32", context=64, slots=4, chunk=16)
TEXTS = [[100 * text + place for place in range(90)] for text in range(5)]
REQUESTS = some_requests(TEXTS, 64, 24, 12, 3)
ADAPTERS = (Adapter("one", "A", 4), Adapter("other", "B", 12))
METHODS = [Method("plain"), Method("lmtp", {"method": "lmtp"})]


def margin(prompt: Any, expected: list[int], got: list[int], place: int) -> dict[str, Any]:
    return {"best_margin": 0.5, "margin": 0.5}


def soaked(
    monkeypatch: pytest.MonkeyPatch, fault: str = "", adapters: tuple[Adapter, ...] = ()
) -> dict[str, Any]:
    monkeypatch.setattr(StandInServer, "fault", fault)
    monkeypatch.setattr(StandInServer, "closed", 0)
    plan = Plan(seconds=1.0, load=0.4, rate=30.0, every=0.1, seed=0, adapters=adapters)
    start: Any = StandInServer
    found = soak.soak(METHODS, CONDITIONS, REQUESTS, plan, lambda text: None, start)
    assert StandInServer.closed == 2
    return outcome(found, REQUESTS, plan, LeapSchedule(2, 2), margin)


def test_servers_that_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    found = soaked(monkeypatch, adapters=ADAPTERS)
    plain, lmtp = found["servers"]
    asked = found["load"]["requests"]
    assert found["load"]["known"] == 3 * len(REQUESTS)
    assert asked > 20
    for server in (plain, lmtp):
        assert server["answers"] + server["broken_off"] == asked + 1  # and the last one
        assert (server["lost"], server["wrong"], server["broken"]) == (0, 0, [])
        assert server["broken_off"] > 0
        assert not is_fault(server)
        assert server["log"] == ["ERROR but for this"]
        times = server["times"]
        assert 0 < times["token"]["p50"] < times["first_token"]["p50"] + times["answer"]["p50"]
        assert times["answer"]["p50"] <= times["answer"]["p99"]
        assert len(server["memory"]["series"]) > 5
    assert (plain["by_place"], plain["acceptance_length"]) == ([], None)
    assert len(lmtp["by_place"]) == 4
    assert set(lmtp["memory"]["over_plain"]) == {"resident", "own"}


@pytest.mark.parametrize("fault", ["lies", "mixes"])
def test_wrong_answers(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lmtp = soaked(monkeypatch, fault)["servers"]
    assert plain["wrong"] == 0
    assert lmtp["wrong"] > 0
    assert is_fault(lmtp)
    assert (lmtp["mixed"] > 0) == (fault == "mixes")
    assert lmtp["wrong_answers"][0]["place"] >= 0


@pytest.mark.parametrize("fault", ["refuses", "breaks off"])
def test_lost_answers(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lmtp = soaked(monkeypatch, fault)["servers"]
    assert plain["lost"] == 0
    assert lmtp["lost"] > 0
    assert is_fault(lmtp)
    (why,) = lmtp["why_lost"]
    assert ("500" in why) if fault == "refuses" else ("ended before the answer" in why)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("hoards", "at the end vllm:num_requests_running is 1.0"),
        ("falls", "fell by"),
        ("drafts", "1 drafts, first places 3"),
    ],
)
def test_counters_that_are_wrong(fault: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lmtp = soaked(monkeypatch, fault)["servers"]
    assert plain["broken"] == []
    assert any(says in line for line in lmtp["broken"]), lmtp["broken"]
    assert is_fault(lmtp)


def test_a_page_of_metrics_in_mid_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what runs, one number may be a step younger than another; at rest that is a fault."""
    for fault, faults in (("tears", 0), ("tears at rest", 2)):
        _, lmtp = soaked(monkeypatch, fault)["servers"]
        assert len(lmtp["broken"]) == faults, lmtp["broken"]
        assert len(lmtp["memory"]["series"]) > 5


def test_a_server_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandInServer, "fault", "dies")
    monkeypatch.setattr(StandInServer, "closed", 0)
    plan = Plan(1.0, 0.4, 1.0, 1.0, 0)
    start: Any = StandInServer
    with pytest.raises(EngineFailedError, match="does not start"):
        soak.soak(METHODS, CONDITIONS, REQUESTS, plan, lambda text: None, start)
    assert StandInServer.closed == 1


def test_options_of_the_servers() -> None:
    found = options_of(CONDITIONS, Plan(1.0, 0.4, None, 1.0, 0, ADAPTERS), 2)
    assert found["lora-modules"] == ["one=A", "other=B"]
    assert found["max-lora-rank"] == 16
    assert found["max-loras"] == 3  # one place is left for requests without an adapter
    assert found["num-gpu-blocks-override"] * found["block-size"] < CONDITIONS.slots * 64
    assert "enable-lora" not in options_of(CONDITIONS, Plan(1.0, 0.4, None, 1.0, 0), 2)


def test_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = {
        "kind": "soak",
        "provenance": provenance(["eval", "soak"], 0),
        "settings": {"model": "tiny", "dtype": "float32", "threads": 1},
        "conditions": CONDITIONS.facts(),
        **soaked(monkeypatch, "lies"),
    }
    report.check_output(tmp_path)
    files = report.save(json.loads(json.dumps(made)), tmp_path)
    page = report.render(report.read_result(files[0]))
    assert page == files[1].read_text()
    assert files[2].read_bytes().startswith(b"\x89PNG")
    lmtp = made["servers"][1]
    row = f"| lmtp | {lmtp['answers']} | {lmtp['tokens']} | {lmtp['broken_off']} | 0 | "
    assert row + f"{lmtp['wrong']} |" in page
    assert "- wrong: request " in page
    assert "| plain | all |" in page
