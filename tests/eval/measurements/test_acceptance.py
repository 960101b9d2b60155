"""Acceptance lengths, histograms, groups and loops of requests written by hand."""

from __future__ import annotations

import math

import pytest

from vllm_lmtp.eval.measurements.acceptance import Request, by_group, loops, summarise
from vllm_lmtp.method.leap import LeapSchedule

LEAP = LeapSchedule(3, 2)


def request(
    accepted: list[int], group: str = "a", loop: int | None = None, drafted: int = 6
) -> Request:
    tokens = 1 + sum(accepted) + len(accepted)
    each = (drafted,) * len(accepted)
    return Request(0, group, 5, tokens, loop, each, tuple(accepted))


def test_the_example_of_the_documentation() -> None:
    found = summarise([request([2, 0, 5])], LEAP, 6)
    assert (found["drafts"], found["draft_tokens"], found["accepted_tokens"]) == (3, 18, 7)
    assert found["acceptance_rate"] == 7 / 18
    assert found["token_weighted"]["value"] == 1 + 7 / 3
    assert [p["accepted"] for p in found["by_position"]] == [2, 2, 1, 1, 1, 0]
    assert [p["drafted"] for p in found["by_position"]] == [3] * 6
    assert [h["accepted"] for h in found["by_head"]] == [4, 2, 1]
    assert [g["accepted"] for g in found["by_lag"]] == [3, 4]
    assert found["histogram"] == [1, 0, 1, 0, 0, 1, 0]


def test_a_long_request_outweighs_a_short_one_by_tokens_only() -> None:
    found = summarise([request([0] * 90), request([3] * 10)], LEAP, 6)
    assert found["token_weighted"]["value"] == 1 + 30 / 100
    assert found["request_weighted"]["value"] == (1 + 4) / 2
    assert found["request_weighted"]["se"] == pytest.approx(math.sqrt(4.5 / 2))


def test_drafts_that_were_cut_count_where_they_reached() -> None:
    found = summarise([request([1, 2], drafted=2)], LEAP, 6)
    assert [p["drafted"] for p in found["by_position"]] == [2, 2, 0, 0, 0, 0]
    assert [p["rate"] for p in found["by_position"]] == [1.0, 0.5, None, None, None, None]


def test_requests_in_bins_of_their_own_length() -> None:
    found = summarise([request([0]), request([0, 1]), request([1]), request([])], LEAP, 6)
    assert [b["requests"] for b in found["request_histogram"]] == [1, 0, 1, 0, 1]
    assert found["request_histogram"][2] == {"from": 1.5, "below": 1.75, "requests": 1}


def test_groups_in_the_order_of_the_set() -> None:
    found = by_group([request([1], "b"), request([3], "a"), request([0], "b")], ["a", "b", "c"])
    assert list(found) == ["a", "b"]
    assert [g["token_weighted"]["value"] for g in found.values()] == [4, 1.5]


def test_loops_are_counted_in_answers_and_tokens() -> None:
    found = loops([request([0] * 9), request([6] * 5, loop=16)])
    assert found == {"answers": 1, "of": 2, "tokens_in_loops": 20, "tokens": 10 + 36}


def test_nothing_drafted() -> None:
    found = summarise([request([])], LEAP, 6)
    assert found["token_weighted"] == {"value": None, "se": None}
    assert found["acceptance_rate"] is None
    assert found["request_histogram"] == []
