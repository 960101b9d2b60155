"""An engine of known step times and acceptance, for a controller of the draft length to run on.

Tokens and seconds are counted as expected, without the clock's noise: what is judged is the
choices. The controller sees the noisy clock and counts drawn at random.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, Protocol

import numpy as np

from vllm_lmtp.length.step import Step

Time = Callable[[int, int, int, float], float]
"""(requests, rows verified, drafts wanted, seconds since the start) -> seconds of a step."""


class Chooser(Protocol):
    """What is simulated."""

    def choose(self, num_requests: int) -> int: ...

    def observe(self, step: Step) -> None: ...


@dataclass(frozen=True)
class Copies:
    """matched: share of requests whose text says anything. right: share of each place of it that is
    accepted after the one before. shared: of those, the share that drafts of heads and texts hold,
    too; 0 for drafts that show nothing of texts."""

    matched: float
    right: float
    shared: float = 0.0

    def shown(
        self, requests: int, places: int, draw: np.random.Generator
    ) -> tuple[list[int], list[int]] | None:
        """What drafts of heads and texts show of texts alone."""
        if not self.shared:
            return None
        right = int(draw.binomial(requests, self.matched))
        judged, accepted = [], []
        for _ in range(places):
            judged.append(right)
            right = int(draw.binomial(right, self.right * self.shared))
            accepted.append(right)
        return judged, accepted


@dataclass(frozen=True)
class World:
    """time: of a step. chances: at a time, of each place to be accepted after the one before it.
    requests: at a time. noise: sigma of the clock's lognormal factor. stragglers: share of steps
    that take ten times as long. late: steps by which observations lag; 1 is a synchronous engine.
    verified: share of each place that a confidence cut leaves, after the place before it. copies:
    what texts say, for those that may choose to ask them alone. once: seconds that the first
    step of each shape takes more."""

    time: Time
    chances: Callable[[float], Sequence[float]]
    requests: Callable[[float], int] = lambda _: 1
    noise: float = 0.03
    stragglers: float = 0.0
    late: int = 1
    prefill_every: int = 0
    jitter: bool = False
    verified: float = 1.0
    copies: Copies | None = None
    once: float = 0.0

    def share_shown(self, choice: int) -> float:
        """Of requests that have a first place to verify; the text says nothing to the others."""
        return self.copies.matched if choice < 0 and self.copies is not None else 1.0

    def right(self, choice: int, at: float) -> np.ndarray:
        """Chances of each place a choice fills."""
        if choice < 0 and self.copies is not None:
            return np.full(-choice, self.copies.right)
        return np.asarray(self.chances(at))[:choice] * self.verified


@dataclass
class Done:
    """at: when each step began, seconds. seconds, tokens: of each step, as expected. plain: seconds
    that its tokens would have taken one after another without drafts, at that time. asked: drafts
    verified. best: tokens a second and request of the best fixed length, then and there."""

    at: np.ndarray
    seconds: np.ndarray
    tokens: np.ndarray
    plain: np.ndarray
    best: np.ndarray
    requests: np.ndarray
    asked: np.ndarray
    wanted: np.ndarray

    def of_best(self, start: float, end: float = np.inf) -> float:
        """Speed between two times as a share of that of the best lengths."""
        part = (self.at >= start) & (self.at < end)
        ideal = self.tokens[part] / (self.requests[part] * self.best[part])
        return float(ideal.sum() / self.seconds[part].sum())

    def worst_window(self, start: float, width: float = 10.0) -> float:
        """The least speed over plain decoding of any window from `start` on."""
        ends = np.searchsorted(self.at, self.at + width)
        plain, took = (np.concatenate([[0], np.cumsum(x)]) for x in (self.plain, self.seconds))
        first = np.arange(len(self.at))
        whole = (self.at >= start) & (self.at + width <= self.at[-1])
        speeds = (plain[ends] - plain[first]) / (took[ends] - took[first])
        return float(speeds[whole].min())


def expected_tokens(chances: Sequence[float], length: int) -> float:
    return 1 + float(np.cumprod(chances)[:length].sum())


def tokens(world: World, choice: int, at: float) -> float:
    """Of a request and step, expected."""
    right = world.right(choice, at)
    return 1 + world.share_shown(choice) * (expected_tokens(right, len(right)) - 1)


def rate(world: World, choice: int, requests: int, at: float) -> float:
    """Tokens a second and request of a fixed choice."""
    if choice < 0:  # some texts say something, and then for the whole draft
        matched = world.share_shown(choice)
        odds = [matched**k * (1 - matched) ** (requests - k) for k in range(requests + 1)]
        seconds = sum(
            comb(requests, k) * share * world.time(requests, -k * choice, 0, at)
            for k, share in enumerate(odds)
        )
    else:
        shown = world.verified ** np.arange(1, choice + 1)
        seconds = world.time(requests, round(requests * float(shown.sum())), choice, at)
    return tokens(world, choice, at) / seconds


def run(
    chooser: Chooser, world: World, lengths: Sequence[int], *, steps: int = 0, seconds: float = 0.0,
    seed: int = 0,
) -> Done:  # fmt: skip
    """Simulate so many steps, or seconds."""
    draw = np.random.default_rng(seed)
    told: deque[Step] = deque()
    columns: list[tuple[Any, ...]] = []
    now, asked, requests, count = 0.0, 0, 0, 0
    best: dict[Any, float] = {}
    shapes: set[tuple[int, bool]] = set()
    while count < steps or now < seconds:
        before, requests = requests, world.requests(now)
        if world.jitter:
            requests = max(1, requests - int(draw.integers(0, 1 + requests // 3)))
        while len(told) >= world.late:
            chooser.observe(told.popleft())
        wanted = chooser.choose(requests)
        drafted = min(before, requests)  # the others have just come, or gone
        judged, accepted = [], []
        shown = drafted
        if asked < 0:
            shown = int(draw.binomial(drafted, world.share_shown(asked)))
        right = shown
        for chance in world.right(asked, now):
            if asked > 0 and world.verified < 1:
                shown = int(draw.binomial(shown, world.verified))
            right = int(draw.binomial(right, chance))
            judged.append(max(shown, right))
            accepted.append(right)
        by_text = None
        if asked > 0 and world.copies is not None:
            by_text = world.copies.shown(drafted, asked, draw)
        rows = sum(judged)
        took = world.time(requests, rows, max(0, wanted), now)
        factor = float(np.exp(world.noise * draw.standard_normal()))
        if draw.random() < world.stragglers:
            factor *= 10
        shape = (requests + rows, wanted > 0)
        once = 0.0 if shape in shapes else world.once
        shapes.add(shape)
        done = requests + drafted * (tokens(world, asked, now) - 1)
        key = (requests, round(now, 0), tuple(world.chances(now)))
        if key not in best:
            best[key] = max(rate(world, m, requests, now) for m in lengths)
        plain = world.time(requests, 0, 0, now) * done / requests
        columns.append((now, took, done, plain, best[key], requests, asked, wanted))
        count += 1
        prefill = bool(world.prefill_every) and count % world.prefill_every == 0
        if prefill:
            factor *= 3
        clock = took * factor + once
        told.append(Step(clock, requests, rows, asked, wanted, judged, accepted, prefill, by_text))
        now += took
        asked = wanted
    return Done(*(np.array(column) for column in zip(*columns, strict=True)))
