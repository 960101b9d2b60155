"""The model of a step's time, on clocks that are exact but for what is said."""

from __future__ import annotations

import pytest

from vllm_lmtp.length.cost import SHIFTED, StepTime
from vllm_lmtp.length.filter import Filter

LENGTHS = (0, 1, 2, 3, 4, 6)


def true(requests: int, rows: float, wanted: int) -> float:
    return 0.02 + 0.001 * requests + 0.002 * rows + (0.003 + 0.0005 * wanted) * (wanted > 0)


def taught(most: int = 8, near: StepTime | None = None) -> StepTime:
    time = StepTime(LENGTHS, most)
    time.begin(true(most, 0, 0), 0.0, near)
    now, asked = 0.0, 0
    for i in range(300):
        wanted = LENGTHS[i // 2 % len(LENGTHS)]
        requests = most - i // 7 % (most // 2) if most > 1 else 1
        seconds = true(requests, requests * asked, wanted)
        now += seconds
        time.observe(seconds, requests, requests * asked, wanted, now)
        asked = wanted
    return time


def test_it_learns_the_parts_of_a_step() -> None:
    time = taught()
    for requests in (5, 8):
        for length in LENGTHS:
            found = time.seconds(time.terms(requests, length, length))
            assert found == pytest.approx(true(requests, requests * length, length), rel=0.02)
    assert time.slope(2.0) == pytest.approx(0.002, rel=0.1)
    assert time.slope(0.0) == pytest.approx(0.002, rel=0.1)
    assert time.noise < 0.03


def test_a_straggler_moves_it_little() -> None:
    time = taught()
    before = time.plain
    time.observe(10 * true(8, 0, 0), 8, 0, 0, 20.0)
    assert time.plain == pytest.approx(before, rel=0.02)


def test_another_machine_speed_is_seen_after_few_steps() -> None:
    time = taught()
    for i in range(SHIFTED + 4):
        time.observe(2 * true(8, 0, 0), 8, 0, 0, 20.0 + i / 10)
    assert time.shifts == 1
    assert time.plain == pytest.approx(2 * true(8, 0, 0), rel=0.1)
    assert time.slope(2.0) == pytest.approx(0.004, rel=0.2)  # and with it all else


def test_what_is_known_of_a_size_is_a_guess_for_another() -> None:
    """Rows at one stream were free; at 32 they are guessed to cost what requests did."""
    one = StepTime(LENGTHS, 1)
    one.begin(0.02, 0.0)
    for i in range(100):
        one.observe(0.02, 1, 6 * (i % 2), 6 * (1 - i % 2), i * 0.02)
    assert one.slope(3.0) < 0.0003
    many = StepTime(LENGTHS, 32)
    many.begin(0.051, 3.0, one)
    assert many.slope(1.0) >= 0.9e-3
    plain, long = many.terms(32, 0, 0), many.terms(32, 6, 6)
    assert many.difference(long, plain) > 0.01


def test_what_a_step_would_tell_of_a_difference() -> None:
    """Plain steps were seen, drafts were not: only a step with drafts tells what they cost more."""
    time = StepTime(LENGTHS, 4)
    time.begin(0.02, 0.0)
    for i in range(100):
        time.observe(0.02, 4, 0, 0, i * 0.02)
    plain, long = time.terms(4, 0, 0), time.terms(4, 6, 6)
    doubt = time.difference(plain, long)
    assert doubt == pytest.approx(time.difference(long, plain))
    assert time.told(plain, long) < 0.1 * doubt
    assert 0.9 * doubt < time.told(long, plain) <= doubt


def test_an_unknown_size_is_not_asked() -> None:
    with pytest.raises(RuntimeError, match="no step"):
        StepTime(LENGTHS, 4).slope(1.0)


def test_the_filter_against_the_mean_of_what_it_saw() -> None:
    found = Filter([0.0], [[1e6]])
    for value in (1.0, 2.0, 3.0, 6.0):
        found.update([(0, 1.0)], value, 4.0)
    assert found.value([(0, 1.0)]) == pytest.approx(3.0, rel=1e-3)
    assert found.variance([(0, 2.0)]) == pytest.approx(4.0, rel=1e-3)
