"""Choosing draft lengths from speeds whose answer is known."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest
from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

from vllm_lmtp.eval.measurements.choice import STUDENT, choose, choose_cut, lower_bound, schedule


def test_without_noise_the_bound_is_the_value() -> None:
    assert lower_bound([1.5, 1.5, 1.5]) == pytest.approx(1.5)


def test_the_bound_of_a_known_spread() -> None:
    """A tenth less and a tenth more than 1.5: a deviation of log 1.1, and t is 2.92 for three."""
    error = math.log(1.1) / math.sqrt(3)
    assert lower_bound([1.5 / 1.1, 1.5, 1.5 * 1.1]) == pytest.approx(1.5 / math.exp(2.92 * error))


def test_more_rounds_than_the_table_has_are_safe() -> None:
    ratios = [1.2, 1.3] * 20
    deviation = statistics.stdev(map(math.log, ratios)) / math.sqrt(40)
    middle = statistics.fmean(map(math.log, ratios))
    assert lower_bound(ratios) == pytest.approx(math.exp(middle - STUDENT[-1] * deviation))


def test_a_single_round_knows_no_noise() -> None:
    with pytest.raises(ValueError, match="two rounds"):
        lower_bound([1.5])


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({1: [1.2, 1.2], 2: [1.5, 1.5], 4: [1.4, 1.4]}, 2),
        ({1: [0.9, 0.9], 2: [0.7, 0.7]}, 0),
        ({2: [1.02, 1.02]}, 0),  # less than the least gain
        ({2: [1.04, 1.04]}, 2),
        ({6: [1.71, 2.58]}, 0),  # two rounds so far apart know nothing
        ({6: [1.71, 2.58, 2.1]}, 6),  # three do
        ({6: [1.2, 1.2, 0.9]}, 0),  # one round slower, which two that agree do not outweigh
        ({1: [1.2, 1.2], 2: [0.7, 1.9]}, 1),  # a better median, too uncertain
        ({2: [0.9, 1.4]}, 0),
        ({3: [1.3, 1.3], 2: [1.3, 1.3]}, 2),  # alike: the shorter
        ({}, 0),
    ],
)
def test_the_chosen_length(ratios: Any, expected: int) -> None:
    assert choose(ratios) == expected


def tunings(true: float, noise: float, count: int = 1000) -> list[tuple[int, dict[int, Any]]]:
    """What is chosen of six lengths that are all `true` times as fast as plain, and the ratios, in
    three rounds of times that vary by `noise`; the baseline is the faster of two."""
    dice, found = random.Random(0), []
    for _ in range(count):
        ratios: dict[int, list[float]] = {length: [] for length in range(1, 7)}
        for _ in range(3):
            baseline = min(math.exp(dice.gauss(0, noise)) for _ in range(2))
            for rounds in ratios.values():
                rounds.append(baseline * true / math.exp(dice.gauss(0, noise)))
        found.append((choose(ratios), ratios))
    return found


def test_what_was_measured_slower_is_never_chosen() -> None:
    for true in (0.9, 1.0, 1.1):
        for chosen, ratios in tunings(true, 0.15, 300):
            if chosen:
                assert statistics.geometric_mean(ratios[chosen]) >= 1.03


@pytest.mark.parametrize(("true", "share"), [(0.95, 0.01), (1.0, 0.05)])
def test_noise_seldom_makes_a_slow_length_look_fast(true: float, share: float) -> None:
    """With a tenth of noise, which is much; a median and its absolute deviation err here in 7 and
    20 of 100 tunings."""
    assert sum(chosen > 0 for chosen, _ in tunings(true, 0.1)) / 1000 <= share


def test_a_clear_gain_is_seen_through_noise() -> None:
    assert sum(chosen > 0 for chosen, _ in tunings(1.3, 0.1)) / 1000 > 0.85
    assert sum(chosen > 0 for chosen, _ in tunings(1.1, 0.02)) / 1000 > 0.95


def test_the_cut_that_gains_most_over_all_loads() -> None:
    """Whole drafts: 1.5 and nothing. Cut: 1.4 and 1.2, whose product is greater."""
    whole = {1: {6: [1.5, 1.5]}, 32: {6: [0.8, 0.8], 2: [0.9, 0.9]}}
    cut = {1: {6: [1.4, 1.4]}, 32: {6: [1.2, 1.2], 2: [1.1, 1.1]}}
    assert choose_cut({0.0: whole, 0.3: cut}) == (0.3, {1: 6, 32: 6})
    assert choose_cut({0.0: whole}) == (0.0, {1: 6, 32: 0})
    assert choose_cut({0.0: whole, 0.3: whole}) == (0.0, {1: 6, 32: 0})  # alike: no cut
    slow = {1: {6: [0.9, 0.9]}, 32: {6: [0.5, 0.5]}}
    assert choose_cut({0.0: slow, 0.1: slow}) == (0.0, {1: 0, 32: 0})


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({1: 6, 8: 6, 32: 0}, [(1, 8, 6), (9, 32, 0)]),
        ({1: 6, 8: 2, 32: 0}, [(1, 1, 6), (2, 8, 2), (9, 32, 0)]),
        ({1: 0, 8: 4}, [(1, 7, 0), (8, 8, 4)]),  # between them the shorter
        ({4: 3}, [(1, 4, 3)]),
        ({1: 2, 2: 4, 3: 2}, [(1, 1, 2), (2, 2, 4), (3, 3, 2)]),
        ({1: 0, 64: 0}, [(1, 64, 0)]),
    ],
)
def test_the_schedule(chosen: dict[int, int], expected: Any) -> None:
    assert schedule(chosen) == expected


def test_vllm_reads_the_schedule_as_it_is_meant() -> None:
    chosen = {1: 6, 4: 3, 16: 0}
    ranges: Any = [list(r) for r in schedule(chosen)]
    table = build_dynamic_sd_schedule_lookup(ranges, 20, 6)
    assert table[1:] == [6, *[3] * 3, *[0] * 16]
