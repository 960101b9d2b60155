"""Shares, means and jackknifed lengths against numbers worked out by hand."""

from __future__ import annotations

import math
import statistics

import pytest

from vllm_lmtp.eval.statistics import jackknife, mean, share


def test_a_share_of_single_tries_has_the_binomial_error() -> None:
    """With one try an answer, clusters are draws: p(1 - p) / (n - 1)."""
    found = share([(1, 1)] * 30 + [(0, 1)] * 70)
    assert (found["hits"], found["tries"], found["rate"]) == (30, 100, 0.3)
    assert found["se"] == pytest.approx(math.sqrt(0.3 * 0.7 / 99))


def test_answers_that_are_all_right_or_all_wrong_count_as_few() -> None:
    """Ten tries an answer that always agree are worth one."""
    alike = share([(10, 10)] * 3 + [(0, 10)] * 7)
    assert alike["rate"] == 0.3
    assert alike["se"] == pytest.approx(math.sqrt(0.3 * 0.7 / 9))


def test_answers_that_are_equally_right_leave_no_error() -> None:
    assert share([(1, 4), (2, 8), (5, 20)])["se"] == 0


def test_answers_without_a_try_are_left_out() -> None:
    assert share([(1, 2), (0, 0)]) == {"hits": 1, "tries": 2, "rate": 0.5, "se": None}
    assert share([(0, 0)]) == {"hits": 0, "tries": 0, "rate": None, "se": None}


def test_mean() -> None:
    values = [1.0, 1.5, 4.0]
    assert mean(values) == {
        "value": pytest.approx(statistics.mean(values)),
        "se": pytest.approx(statistics.stdev(values) / math.sqrt(3)),
    }
    assert mean([2.0]) == {"value": 2.0, "se": None}
    assert mean([]) == {"value": None, "se": None}


def test_the_jackknife_of_a_mean_is_its_own_error() -> None:
    values = [1.0, 1.5, 4.0, 2.0]
    found = jackknife([[v, 1] for v in values], lambda sums: sums[0] / sums[1])
    assert found["value"] == pytest.approx(mean(values)["value"])
    assert found["se"] == pytest.approx(mean(values)["se"])


def test_the_jackknife_without_an_estimate() -> None:
    def ratio(sums: object) -> float | None:
        a, b = sums  # type: ignore[misc]
        return a / b if b else None

    assert jackknife([], ratio) == {"value": None, "se": None}
    assert jackknife([[0, 0], [0, 0]], ratio) == {"value": None, "se": None}
    assert jackknife([[1, 2], [0, 0]], ratio) == {"value": 0.5, "se": None}
