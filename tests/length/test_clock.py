"""A clock that jumps spoils no choice of a draft length, nor the engine that asks for it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.engine_times.curves import CURVES, LENGTHS, geometric
from tests.support.engine_times.steps import World, run
from vllm_lmtp.length.controller import Controller
from vllm_lmtp.length.step import LONGEST, Step
from vllm_lmtp.scheduler.draft_length import DraftLength

SETTLED = 300
HOURS = 3 * 3600.0
NO_TIMES = [0.0, -1e-3, -HOURS, -1e18, math.nan, math.inf, -math.inf, HOURS, 1e18]
"""What no step takes, whatever a clock says."""


class Jumping:
    """A controller whose clock says one of some values in place of every fifth step's time."""

    def __init__(self, says: Sequence[float], seed: int = 0) -> None:
        self.inner, self.says, self.dice = Controller(6), says, random.Random(seed)
        self.jumps = 0

    def choose(self, num_requests: int) -> int:
        return self.inner.choose(num_requests)

    def observe(self, step: Step) -> None:
        if self.dice.random() < 0.2:
            self.jumps += 1
            step = replace(step, seconds=self.dice.choice(self.says))
        self.inner.observe(step)


def world(curve: str = "memory-bound", acceptance: float = 0.85) -> World:
    chances = geometric(acceptance)
    return World(CURVES[curve], chances, lambda at: 8, noise=0.05, stragglers=0.01, late=2)


def finite(state: Any) -> bool:
    """Whether all numbers of plain data are."""
    if isinstance(state, dict):
        return all(map(finite, state.values()))
    if isinstance(state, (list, tuple)):
        return all(map(finite, state))
    return not isinstance(state, float) or math.isfinite(state)


@pytest.mark.parametrize(
    "says", [[value] for value in NO_TIMES] + [NO_TIMES], ids=[*map(str, NO_TIMES), "all"]
)
def test_what_no_step_takes_is_not_believed(says: list[float]) -> None:
    speeds = []
    for seed in range(3):
        chooser = Jumping(says, seed)
        done = run(chooser, world(), LENGTHS, steps=600, seed=seed)
        assert chooser.jumps > 80
        assert finite(chooser.inner.state())
        assert 0 < chooser.inner.now < 600 * LONGEST / 100
        speeds.append(done.of_best(done.at[SETTLED]))
    assert sum(speeds) / len(speeds) >= 0.95


@pytest.mark.parametrize("pause", [1.0, 60.0, LONGEST])
@pytest.mark.parametrize("count", [1, 4])
def test_steps_in_which_the_machine_stood_still(pause: float, count: int) -> None:
    """They are believed, and forgotten: what was learnt before holds again soon after."""
    chooser = Controller(6)
    of = world()
    run(chooser, of, LENGTHS, steps=400)
    usual = chooser.in_use(8)
    assert usual > 0
    for _ in range(count):
        wanted = chooser.choose(8)
        chooser.observe(Step(pause, 8, 8 * wanted, wanted, wanted, [8] * wanted, [7] * wanted))
    assert finite(chooser.state())
    after = run(chooser, of, LENGTHS, steps=600, seed=1)
    assert after.of_best(after.at[SETTLED]) >= 0.95


@pytest.mark.parametrize("seconds", NO_TIMES)
def test_a_step_without_drafts_passes_only_with_a_time(seconds: float) -> None:
    chooser = Controller(6)
    for _ in range(400):
        chooser.observe(Step(0.01, 4, 0, 0, 0))
    now, paid = chooser.now, chooser.looks.budget.paid_in
    assert not chooser.looks.under_way()
    assert chooser.sizes[4].length == 0
    assert chooser.passes(4, 1e-4)
    assert chooser.now > now
    now, paid = chooser.now, chooser.looks.budget.paid_in
    assert not chooser.passes(4, seconds)
    assert (chooser.now, chooser.looks.budget.paid_in) == (now, paid)


def clock_of(readings: Sequence[float]) -> Callable[[], float]:
    left = list(readings)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize("jump", [-HOURS, HOURS, math.nan, 0.0])
def test_the_scheduler_goes_on_when_its_clock_jumps(jump: float) -> None:
    """Between any two of its readings: a step is planned, its output arrives, and so on."""
    for at in range(3, 40):
        readings = [0.01 * n + (jump if n >= at else 0.0) for n in range(80)]
        length = DraftLength(Controller(6), clock=clock_of(readings))
        for _ in range(30):
            output = SimpleNamespace(
                num_scheduled_tokens={"a": 1, "b": 1},
                total_num_scheduled_tokens=2,
                scheduled_spec_decode_tokens={},
            )
            assert 0 <= length[2] <= 6
            length.plan(output)
            length.observe(length.arrived(), output, more=True)
        assert finite(length.controller.state())
        assert length.controller.now >= 0


def test_the_clock_of_the_scheduler_only_goes_forward() -> None:
    import inspect
    import time

    default = inspect.signature(DraftLength).parameters["clock"].default
    assert default is time.perf_counter
    assert time.get_clock_info("perf_counter").monotonic
    assert not time.get_clock_info("perf_counter").adjustable
