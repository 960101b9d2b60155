"""What drafts are worth, against sums written out."""

from __future__ import annotations

import pytest

from vllm_lmtp.length.worth import GUESS_TRIES, Share, Worth


def steps(worth: Worth, count: int, asked: int, judged: list[int], accepted: list[int]) -> None:
    for _ in range(count):
        worth.observe(10, asked, judged, accepted, 0.01)


def test_tokens_are_one_and_the_chain_of_shares() -> None:
    worth = Worth(3)
    steps(worth, 300, 3, [10, 10, 10], [8, 4, 1])
    found = worth.expectations()
    assert [e.tokens for e in found] == pytest.approx([1, 1.8, 2.2, 2.3], abs=0.02)
    assert [e.rows for e in found] == pytest.approx([0, 1, 2, 3], abs=0.01)
    assert found[0].doubt == 0 < found[1].doubt < 0.1


def test_rows_that_a_cut_left_out_are_not_counted() -> None:
    worth = Worth(2)
    steps(worth, 300, 2, [5, 2], [4, 2])
    assert worth.expected(2).rows == pytest.approx(0.7, abs=0.01)
    assert worth.expected(2).tokens == pytest.approx(1.6, abs=0.02)


def test_places_that_nobody_asked_for_follow_those_before_them() -> None:
    worth = Worth(3)
    steps(worth, 300, 3, [10] * 3, [8, 6, 5])
    far = worth.expected(3).tokens
    steps(worth, 300, 1, [10], [2])
    assert worth.expected(1).tokens == pytest.approx(1.2, abs=0.02)
    assert worth.expected(3).tokens < 1.2 + 0.3 * (far - 1)


def test_another_text_is_noticed_within_few_steps() -> None:
    worth = Worth(1)
    steps(worth, 300, 1, [10], [1])
    assert worth.changes == 0
    steps(worth, 2, 1, [10], [8])
    assert worth.changes > 0
    assert worth.expected(1).tokens > 1.4


def test_what_is_not_seen_loses_weight_and_keeps_its_share() -> None:
    share = Share()
    for _ in range(100):
        share.add(10, 5, 0.01)
    before, tries = share.estimate(0.5), share.tries
    share.fade(30.0)
    assert share.estimate(0.5) == pytest.approx(before)
    assert share.tries == pytest.approx(tries / 2.71828, rel=1e-3)


def test_a_guess_counts_as_a_few_tries() -> None:
    assert Share(GUESS_TRIES, 0.0).estimate(0.5) == pytest.approx(0.25)
