"""How long answers are that go on side by side."""

from __future__ import annotations

import pytest

from vllm_lmtp.eval.measurements.speed import Plan
from vllm_lmtp.eval.pages.words import mixed
from vllm_lmtp.eval.prompts.lengths import length_of_each, mixed_lengths


@pytest.mark.parametrize("tokens", [1, 2, 7, 96])
def test_answers_of_streams_that_go_on_have_many_lengths_around_one(tokens: int) -> None:
    lengths = mixed_lengths(tokens, 400)
    assert len(lengths) == 400
    assert min(lengths) == max(1, tokens // 2)
    assert max(lengths) == tokens + tokens // 2
    assert sum(lengths) / 400 == pytest.approx(tokens, rel=0.1 if tokens > 1 else 0)
    assert mixed_lengths(tokens, 40) == lengths[:40]  # the same for both engines, and every round


@pytest.mark.parametrize("most", [1, 2, 3, 48, 144])
def test_a_load_of_mixed_answers_asks_for_no_more_than_is_allowed(most: int) -> None:
    """Or its prompts would not fit the context that they were chosen for."""
    same = Plan((1, 8), 2, least=4, per_stream=60, eager=True, alive=None, threads=1)
    mixed = Plan((1, 8), 2, 4, 60, True, None, 1, mixed=True)
    assert same.answers(8, most) == most
    lengths = mixed.answers(8, most)
    assert isinstance(lengths, list)
    assert len(lengths) == mixed.requests(8)
    assert 1 <= min(lengths) <= max(1, most // 3 + 1)
    assert max(1, most - 2) <= max(lengths) <= most


def test_results_of_before_there_were_mixed_answers_are_those_of_one_length() -> None:
    """What a cell depends on says so only where they are mixed."""
    assert "mixed" not in Plan((1,), 1, 1, 1, True, None, 1).facts()
    assert Plan((1,), 1, 1, 1, True, None, 1, mixed=True).facts()["mixed"] is True


def test_all_answers_have_one_length_or_each_its_own() -> None:
    assert list(length_of_each(5, 3)) == [5, 5, 5]
    assert list(length_of_each([1, 2, 3], 3)) == [1, 2, 3]


def test_pages_say_where_answers_are_mixed() -> None:
    assert mixed({"rounds": 1}) == ""
    assert mixed({"rounds": 1, "mixed": True}).startswith("Answers have from a third")
