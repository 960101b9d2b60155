"""Loops in tokens."""

from __future__ import annotations

import random

import pytest

from vllm_lmtp.training.distillation.loops import LENGTH, PERIOD, TIMES, loop_start


@pytest.mark.parametrize("period", [1, 2, 7, 30, PERIOD])
@pytest.mark.parametrize("cut", [0, 1])
def test_a_repeated_ending_is_found_where_it_begins(period: int, cut: int) -> None:
    rng = random.Random(period)
    phrase = rng.sample(range(1000, 2000), period)
    times = max(TIMES, -(-LENGTH // period)) + 1
    text = rng.sample(range(1000), 50) + (phrase * times)[: period * times - cut]
    assert loop_start(text) == 50


def test_ordinary_text_and_short_repetitions_are_no_loops() -> None:
    rng = random.Random(1)
    assert loop_start([]) is None
    assert loop_start(rng.sample(range(1000), 300)) is None
    assert loop_start([*range(50), *[7] * (LENGTH - 1)]) is None
    assert loop_start([*range(50), *list(range(100, 120)) * (TIMES - 1)]) is None


def test_a_loop_that_the_text_left_again_is_none() -> None:
    assert loop_start([*range(10), *[1, 2] * 30, *range(100, 110)]) is None
