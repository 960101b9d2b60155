"""What is told of the draft length: numbers once a second, and a word when something stays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_lmtp.length.sizes import Reason
from vllm_lmtp.length.step import Step
from vllm_lmtp.observe import draft_length
from vllm_lmtp.observe.carried import LengthReport, SizeInUse, length_report
from vllm_lmtp.observe.draft_length import LOG_SECONDS, NEVER_SECONDS, LengthReports


class Known:
    """Stands for a controller that knows."""

    def __init__(self) -> None:
        self.now = 0.0
        self.length = 0

    def in_use(self, num_requests: int) -> int:
        return self.length

    def gain(self, num_requests: int) -> float | None:
        return 1.25 if self.length else None

    def reason(self, num_requests: int) -> Reason | None:
        return Reason(tokens=2.0, seconds=0.06, plain=0.045)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to the log."""
    lines: list[str] = []
    logger = SimpleNamespace(info=lambda text, *args: lines.append(text % args))
    monkeypatch.setattr(draft_length, "logger", logger)
    return lines


def steps(reports: LengthReports, known: Known, seconds: float, length: int, size: int = 3) -> None:
    """Steps of a tenth of a second with a length in use."""
    known.length = length
    for _ in range(round(10 * seconds)):
        known.now += 0.1
        reports.observe(Step(0.1, size, 0, length, length))


def report(reports: LengthReports) -> LengthReport | None:
    stats: Any = SimpleNamespace(spec_decoding_stats=None)
    reports.add_to(stats, 6)
    found = stats.spec_decoding_stats
    return None if found is None else length_report(found)


def test_steps_and_lengths_are_reported_once_a_second(said: list[str]) -> None:
    known = Known()
    reports = LengthReports(known)  # type: ignore[arg-type]
    assert report(reports) is None
    known.now = 100.0
    assert report(reports) is None  # there is nothing to tell
    steps(reports, known, 0.1, 0)
    assert report(reports) is not None
    steps(reports, known, 0.8, 0)
    assert report(reports) is None
    steps(reports, known, 0.4, 2, size=1)
    assert report(reports) == LengthReport(
        {0: 8, 2: 4}, [SizeInUse(1, 2, 1250), SizeInUse(4, 0, 1250)]
    )
    assert report(reports) is None
    steps(reports, known, 1.1, 0)
    assert report(reports) == LengthReport({0: 11}, [SizeInUse(1, 2, 1000), SizeInUse(4, 0, 1000)])
    assert said == []


def test_a_length_that_stays_is_explained_once(said: list[str]) -> None:
    known = Known()
    reports = LengthReports(known)  # type: ignore[arg-type]
    for length in (2, 3):  # each too short to stay
        steps(reports, known, LOG_SECONDS / 2, length)
    assert said == []
    steps(reports, known, 3 * LOG_SECONDS, 3)
    (line,) = said
    assert "3 drafts a request for up to 4 requests: 2.00 tokens a step of 60.0 ms" in line
    assert "1 in 45.0 ms, so this is 1.50 x as fast" in line
    steps(reports, known, 2 * LOG_SECONDS, 0)
    assert len(said) == 2
    assert said[1].startswith("L-MTP: plain decoding for up to 4 requests")


def test_copies_are_called_by_their_name(said: list[str]) -> None:
    known = Known()
    reports = LengthReports(known)  # type: ignore[arg-type]
    steps(reports, known, 1.5 * LOG_SECONDS, -6)
    assert said[0].startswith("L-MTP: copies alone, up to 6 a request, for up to 4 requests:")


def test_drafts_that_never_pay_are_given_up_aloud_once(said: list[str]) -> None:
    known = Known()
    reports = LengthReports(known)  # type: ignore[arg-type]
    steps(reports, known, NEVER_SECONDS - 1, 0)
    assert said == []
    steps(reports, known, NEVER_SECONDS, 0)
    (line,) = said
    assert "no draft was worth its time" in line


def test_drafts_that_paid_once_are_not_given_up(said: list[str]) -> None:
    known = Known()
    reports = LengthReports(known)  # type: ignore[arg-type]
    steps(reports, known, 1, 2)
    steps(reports, known, 2 * NEVER_SECONDS, 0)
    assert not [line for line in said if "worth" in line]
