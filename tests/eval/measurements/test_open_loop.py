"""Open-loop load, with stand-ins for the servers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.eval.measurements.test_speed import QUESTIONS, SETTINGS
from tests.eval.pages.test_report import result
from tests.support.random_models import fields
from vllm_lmtp.cli import main
from vllm_lmtp.eval.engines import servers
from vllm_lmtp.eval.engines.methods import Method
from vllm_lmtp.eval.engines.process import EngineFailedError
from vllm_lmtp.eval.engines.servers import Burst, bench_words
from vllm_lmtp.eval.measurements import open_loop
from vllm_lmtp.eval.measurements.open_loop import ACCEPTANCE, Arrivals
from vllm_lmtp.eval.pages import report


def said(answer_ms: float, acceptance: float | None = None) -> dict[str, Any]:
    """What a benchmark says of requests that took so long."""
    answer = answer_ms / 1e3
    times = {"latencies": [answer] * 4, "ttfts": [answer / 4] * 4, "output_lens": [4, 4, 4, 1]}
    counts = {"completed": 4, "failed": 0, "request_throughput": 1.0, "output_throughput": 2.0}
    return times | counts | ({} if acceptance is None else {ACCEPTANCE: acceptance})


def test_times_of_requests() -> None:
    """Three tokens after the first in three quarters of the answer; one request has none."""
    found = open_loop.numbers(said(100))
    assert found["answer_ms"] == pytest.approx(100)
    assert found["answer_p99_ms"] == pytest.approx(100)
    assert found["first_token_ms"] == pytest.approx(25)
    assert found["token_ms"] == pytest.approx(25)
    spread = said(1) | {"latencies": [0.0, 0.1, 0.2, 0.3]}
    assert open_loop.numbers(spread)["answer_ms"] == pytest.approx(150)
    assert open_loop.numbers(spread)["answer_p99_ms"] == pytest.approx(297)


def test_sooner_than_plain_in_the_same_round() -> None:
    """A round in which the machine was half as fast changes both, and no ratio."""
    found = open_loop.summarise(
        [said(100, 2.0), said(200, 2.5), said(100, 3.0)], [said(150), said(300), said(150)]
    )
    assert found["sooner"]["rounds"] == pytest.approx([1.5] * 3)
    assert found["answer_ms"]["median"] == pytest.approx(100)
    assert found["answer_ms"]["most"] == pytest.approx(200)
    assert found["acceptance_length"] == 2.5
    assert open_loop.summarise([said(1)], [said(1)])["acceptance_length"] is None


class StandIn:
    """A server whose answers take 100 ms, less with drafts, and more the faster requests come."""

    calls: list[tuple[str, float | None, int, int]] = []  # noqa: RUF012
    closed = 0

    def __init__(
        self,
        model: str,
        config: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        log: Path,
        cache_gib: int,
    ) -> None:
        self.name = "plain" if config is None else str(config["method"])
        if self.name == "broken":
            raise EngineFailedError("no such thing")

    def bench(self, burst: Burst) -> dict[str, Any]:
        if self.name == "fragile" and burst.seed:
            raise EngineFailedError("1 of 6 requests failed")
        StandIn.calls.append((self.name, burst.rate, burst.seed, len(burst.prompts)))
        wait = 100.0 if burst.rate is None else 10.0 * burst.rate
        return said(wait if self.name == "plain" else wait / 2, None)

    def close(self) -> None:
        StandIn.closed += 1


METHODS = [Method("plain"), Method("lmtp", {"method": "lmtp"}), Method("x", {"method": "broken"})]
ARRIVALS = Arrivals((2.0, None), requests=6, rounds=2, slots=3, eager=True, threads=1)


def measured(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(StandIn, "calls", [])
    patch.setattr(StandIn, "closed", 0)
    start: Any = StandIn
    return open_loop.measure(METHODS, QUESTIONS, SETTINGS, ARRIVALS, lambda text: None, start)


def test_servers_take_turns_with_the_same_arrivals(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch)
    # Each is warmed up before its first turn.
    warm_up = [StandIn.calls.pop(place) for place in (0, 1)]
    assert warm_up == [("plain", None, 0, 3), ("lmtp", None, 0, 3)]
    order = (("plain", "lmtp"), ("lmtp", "plain"))
    assert StandIn.calls == [
        (name, rate, number, 6)
        for number in (0, 1)
        for rate in (2.0, None)
        for name in order[number]
    ]
    assert StandIn.closed == 2
    assert found["not_measured"] == [{"name": "x", "why": "no such thing"}]
    by_place = {(s["method"], s["rate"]): s for s in found["served"]}
    assert by_place["lmtp", 2.0]["answer_ms"]["median"] == pytest.approx(10)
    assert {round(s["sooner"]["median"], 6) for s in found["served"]} == {1.0, 2.0}


def test_a_method_that_fails_on_the_way_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "calls", [])
    start: Any = StandIn
    methods = [Method("plain"), Method("f", {"method": "fragile"})]
    found = open_loop.measure(methods, QUESTIONS, SETTINGS, ARRIVALS, lambda text: None, start)
    assert found["not_measured"] == [{"name": "f", "why": "1 of 6 requests failed"}]
    assert {s["method"] for s in found["served"]} == {"plain"}


def test_without_plain_decoding_there_is_nothing_to_compare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start: Any = StandIn
    broken = [Method("plain", {"method": "broken"})]
    with pytest.raises(EngineFailedError):
        open_loop.measure(broken, QUESTIONS, SETTINGS, ARRIVALS, lambda text: None, start)


def test_the_page_of_arrivals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = result("serve", **measured(monkeypatch))
    report.check_output(tmp_path)
    files = report.save(made, tmp_path)
    page = report.render(report.read_result(files[0]))
    assert page == files[1].read_text()
    assert files[2].read_bytes().startswith(b"\x89PNG")
    at_once = page.split("## All at once")[1]
    assert "| lmtp | 2.00 (2.00-2.00) | 50 (50-50) |" in at_once
    assert "## 2 requests/s" in page
    assert "- x: no such thing" in page


def test_the_command_of_a_burst(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(servers, "vllm_command", lambda: "vllm")
    words = bench_words("http://there", Burst([[1, 2], [3]], 9, None, 4), tmp_path / "p.jsonl")
    options = dict(pairwise(words))
    assert words[:3] == ["vllm", "bench", "serve"]
    assert options["--request-rate"] == "inf"
    assert options["--num-prompts"] == "2"
    assert json.loads(options["--extra-body"]) == {"max_tokens": 9, "temperature": 0.0}
    assert bench_words("x", Burst([[1]], 9, 0.5, 4), tmp_path)[words.index("inf")] == "0.5"


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "fast"])
def test_impossible_rates(rate: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["eval", "serve", "--rates", rate])
    assert stop.value.code == 2
    assert "rate above 0" in capfd.readouterr().err


def test_bad_methods_are_refused(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the command sets them for its process
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    assert fields(capfd, "eval", "serve", "--threads", "1", "--only", "nothing") == {"name"}
