"""When requests of a soak arrive, by a seed: as Poisson has it, then in bursts, then not at all."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vllm_lmtp.eval.trust.mixture import Request, by_magnitude

ROUND = ("steady", "burst", "steady", "idle")
"""What follows each other, over and over."""
IDLE = 0.4
"""How long nothing comes, as a share of the other parts."""
STREAMED, LEAVES, SHORTENED = 0.8, 0.15, 0.5
"""Shares of the requests that are streamed, are broken off by the client, and ask for less than the
longest answer that is known."""


@dataclass(frozen=True)
class Event:
    """at: seconds after the load began. request: number among the known ones. model: 0 for the
    target, else the number of an adapter. leaves: breaks off after so many tokens; None: stays."""

    at: float
    request: int
    model: int
    max_tokens: int
    streamed: bool
    leaves: int | None


def schedule(
    requests: Sequence[Request], adapters: int, seconds: float, rate: float, burst: int, seed: int
) -> list[Event]:
    """Events in the order of their times.

    Args:
        rate: requests a second where the load is steady.
        burst: requests that arrive within a second.
    """
    dice = random.Random(seed)
    found = []
    for at in _times(seconds, rate, burst, dice):
        number = dice.randrange(len(requests))
        most = requests[number].max_tokens
        tokens = by_magnitude(1, most, dice) if dice.random() < SHORTENED else most
        leaves = dice.randint(0, tokens) if dice.random() < LEAVES else None
        streamed = dice.random() < STREAMED
        found.append(Event(at, number, dice.randint(0, adapters), tokens, streamed, leaves))
    return found


def _times(seconds: float, rate: float, burst: int, dice: random.Random) -> Iterator[float]:
    part = min(60.0, seconds / (2 * len(ROUND)))
    now = 0.0
    while now < seconds:
        for kind in ROUND:
            if now >= seconds:
                return
            lasts = dice.uniform(0.5, 1.0) * part * (IDLE if kind == "idle" else 1.0)
            ends = min(seconds, now + lasts)
            if kind == "burst":
                ends = min(ends, now + 1)
                yield from sorted(dice.uniform(now, ends) for _ in range(burst))
            elif kind == "steady":
                while (now := now + dice.expovariate(rate)) < ends:
                    yield now
            now = ends
