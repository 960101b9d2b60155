"""Slopes that are known, and the memory of this very process."""

from __future__ import annotations

import math
import os
import random

import pytest

from vllm_lmtp.eval.trust.memory import Size, memory_of, over, sizes, slope

HOUR = [float(at) for at in range(0, 3600, 5)]


def test_a_straight_line_is_found() -> None:
    found = slope([(at, 100 + 36 * at / 3600) for at in HOUR])
    assert found["per_hour"] == pytest.approx(36)
    assert found["se"] == pytest.approx(0, abs=1e-6)
    assert slope([(0.0, 1.0)] * 3) == {"per_hour": None, "se": None}


@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_the_error_is_that_of_repetitions(alike: float) -> None:
    """Noise whose values are alike moves slopes more; the error says by how much."""
    dice = random.Random(1)
    slopes, errors = [], []
    for _ in range(200):
        noise, points = 0.0, []
        for at in HOUR:
            noise = alike * noise + dice.gauss(0, 1)
            points.append((at, 500 + noise))
        found = slope(points)
        slopes.append(found["per_hour"])
        errors.append(found["se"])
    spread = math.sqrt(sum(s * s for s in slopes) / len(slopes))
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.25)


def test_processes_and_all_together() -> None:
    readings = [
        (at, {"server": Size(100.0, 10.0), "VLLM::Worker": Size(200 + at / 60, 70 - at / 60)})
        for at in HOUR
    ]
    readings[0] = (0.0, {"server": Size(50.0, 5.0)})
    found = memory_of(readings, 3600)
    server, worker = found["processes"]
    assert server["resident"] == {"first": 50, "last": 100, "per_hour": 0, "se": 0}
    assert worker["resident"]["per_hour"] == pytest.approx(60)
    assert worker["own"]["per_hour"] == pytest.approx(-60)
    assert found["total"]["resident"]["per_hour"] == pytest.approx(60)
    assert found["series"][0] == (0.0, 50.0, 5.0)


def test_growth_beyond_plain_decodings_is_told_apart() -> None:
    plain = {kind: {"per_hour": 3.0, "se": 3.0} for kind in ("resident", "own")}
    lmtp = {"resident": {"per_hour": 14.0, "se": 4.0}, "own": {"per_hour": 12.0, "se": 4.0}}
    found = over(lmtp, plain)
    assert found["resident"] == {"per_hour": 11.0, "se": 5.0, "told_apart": True}
    assert found["own"] == {"per_hour": 9.0, "se": 5.0, "told_apart": False}
    short = {"own": {"per_hour": None, "se": None}}
    assert over(short, plain)["own"]["told_apart"] is None


def test_this_process() -> None:
    found = sizes(os.getpid())["server"]
    assert 5 < found.own < found.resident
    assert sizes(2**22 + 1) == {}
