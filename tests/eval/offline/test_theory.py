"""The paper's lengths in closed form, and the attenuation out of counts that have one."""

from __future__ import annotations

import math

import pytest

from vllm_lmtp.eval.offline.theory import (
    attenuated,
    break_even,
    expected_length,
    fit_attenuation,
    length_of,
)
from vllm_lmtp.method.leap import LeapSchedule


def test_stride_2_reads_each_head_twice() -> None:
    """f(1) f(3) f(3) f(5) f(5) f(7) f(7), the paper's sum for k = 2, n = 4, f(1) being 1."""
    f = {3: 0.5, 5: 0.25, 7: 0.125}
    expected = 1 + 0.5 + 0.25 + 0.25**2 + 0.25**3 + 0.25**3 * 0.125 + 0.25**3 * 0.125**2
    assert expected_length(LeapSchedule(3, 2), lambda o: f[o]) == pytest.approx(expected)


def test_stride_1_is_the_sum_of_products() -> None:
    f = attenuated(0.1)
    expected = 1 + f(2) + f(2) * f(3) + f(2) * f(3) * f(4)
    assert expected_length(LeapSchedule(3, 1), f) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("g", "adjacent", "leap", "far", "wide"),
    [
        (0.02, 3.81, 5.84, 6.03, 5.65),
        (0.05, 3.55, 4.65, 4.98, 4.32),
        (0.1, 3.19, 3.50, 3.91, 3.11),
        (0.2, 2.67, 2.45, 2.87, 2.09),
        (0.3, 2.31, 1.97, 2.38, 1.65),
    ],
)
def test_lengths_of_known_attenuations(
    g: float, adjacent: float, leap: float, far: float, wide: float
) -> None:
    f = attenuated(g)
    found = [expected_length(LeapSchedule(n, k), f) for n, k in ((3, 1), (3, 2), (6, 1), (2, 3))]
    assert found == pytest.approx([adjacent, leap, far, wide], abs=0.006)


@pytest.mark.parametrize(("n_heads", "g"), [(2, 0.214), (3, 0.139), (4, 0.099)])
def test_break_even(n_heads: int, g: float) -> None:
    assert break_even(LeapSchedule(n_heads, 2)) == pytest.approx(g, abs=0.0006)


def test_one_offset_gives_the_attenuation_itself() -> None:
    assert fit_attenuation([(3, 25, 100)]) == pytest.approx(math.log(4) / 2)


def test_counts_that_lie_on_a_curve_give_that_curve() -> None:
    tries = 10**9
    points = [(o, round(tries * math.exp(-0.3 * (o - 1))), tries) for o in (3, 5, 7)]
    assert fit_attenuation(points) == pytest.approx(0.3, abs=1e-6)


def test_larger_counts_weigh_more() -> None:
    found = fit_attenuation([(2, 50, 100), (3, 36_000, 100_000)])
    assert found == pytest.approx(-math.log(0.36) / 2, rel=0.01)


def test_heads_that_are_always_or_never_right() -> None:
    assert fit_attenuation([(3, 10, 10), (5, 4, 4)]) == 0
    assert fit_attenuation([(3, 0, 10)]) is None
    assert fit_attenuation([(3, 0, 0)]) is None
    assert fit_attenuation([]) is None


def test_length_of_certain_and_hopeless_places() -> None:
    assert length_of([1.0] * 6) == 7
    assert length_of([0.0, 1.0]) == 1
