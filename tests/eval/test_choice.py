"""Choosing draft lengths from speeds whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

from vllm_lmtp.eval.choice import choose, lower_bound, schedule


def test_without_noise_the_bound_is_the_value() -> None:
    assert lower_bound([1.5, 1.5, 1.5]) == pytest.approx(1.5)


def test_the_bound_of_a_known_spread() -> None:
    """A tenth less and a tenth more than 1.5: deviations of log 1.1, 0 and log 1.1."""
    error = 1.2533 * 1.4826 * math.log(1.1) / math.sqrt(3)
    assert lower_bound([1.5 / 1.1, 1.5, 1.5 * 1.1]) == pytest.approx(1.5 / math.exp(2 * error))


def test_one_disturbed_round_does_not_decide() -> None:
    assert lower_bound([1.5, 1.5, 0.2, 1.5, 1.5]) == pytest.approx(1.5)


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
        ({6: [1.71, 2.58]}, 6),  # apart, yet both far above 1
        ({1: [1.2, 1.2], 2: [0.7, 1.9]}, 1),  # a better median, too uncertain
        ({2: [0.9, 1.4]}, 0),
        ({3: [1.3, 1.3], 2: [1.3, 1.3]}, 2),  # alike: the shorter
        ({}, 0),
    ],
)
def test_the_chosen_length(ratios: Any, expected: int) -> None:
    assert choose(ratios) == expected


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
