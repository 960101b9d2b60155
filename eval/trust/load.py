"""Puts the load on the servers of a soak, and sees what becomes of them meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vllm_lmtp.eval.engines.methods import Method
from vllm_lmtp.eval.engines.process import EngineFailedError
from vllm_lmtp.eval.prompts.asking import Progress
from vllm_lmtp.eval.trust.client import Answer, ask
from vllm_lmtp.eval.trust.counters import RUNNING, WAITING, Counts, page_counts
from vllm_lmtp.eval.trust.memory import Size, sizes
from vllm_lmtp.eval.trust.mixture import Request
from vllm_lmtp.eval.trust.plan import Plan
from vllm_lmtp.eval.trust.schedule import Event

ANSWER_SECONDS = 600
"""An answer that takes longer is lost."""
SAID_SECONDS = 60
"""Between two words of progress."""


class Serving(Protocol):
    """As `servers.Server`."""

    log: Path

    @property
    def address(self) -> str: ...
    @property
    def pid(self) -> int: ...
    def close(self) -> None: ...


@dataclass
class Reading:
    """What was seen of a server at a time: memory by process, counters and levels."""

    at: float
    memory: dict[str, Size]
    counts: Counts
    levels: dict[str, float]

    @property
    def rests(self) -> bool:
        """Whether nothing ran: a page is not read at one instant, so that its numbers fit each
        other only then."""
        return not self.levels.get(RUNNING) and not self.levels.get(WAITING)


@dataclass
class Watched:
    """What became of one server. before: its counters when the load began."""

    method: Method
    server: Serving
    before: Counts
    answers: list[Answer] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


async def know(
    session: Any, server: Serving, slots: int, requests: Sequence[Request], plan: Plan
) -> tuple[dict[tuple[int, int], list[int]], float]:
    """The answers by (request, model), and how many tokens a second that were."""
    free = asyncio.Semaphore(slots)
    begun = time.monotonic()

    async def one(number: int, model: int) -> Answer:
        async with free:
            request = requests[number]
            event = Event(0.0, number, model, request.max_tokens, False, None)
            name = plan.models[model]
            return await ask(session, server.address, name, request, event, begun)

    keys = [(n, m) for m in range(len(plan.models)) for n in range(len(requests))]
    answers = await asyncio.gather(*(one(*key) for key in keys))
    failed = [answer.failure for answer in answers if answer.failure is not None]
    if failed:
        raise EngineFailedError(f"{len(failed)} requests failed before the load: {failed[0]}")
    seconds = time.monotonic() - begun
    known = {key: answer.tokens for key, answer in zip(keys, answers, strict=True)}
    return known, sum(map(len, known.values())) / seconds


async def load(
    session: Any,
    watched: Sequence[Watched],
    requests: Sequence[Request],
    events: Sequence[Event],
    plan: Plan,
    progress: Progress,
) -> None:
    """Send all events to all servers at their times, and read memory and metrics meanwhile."""
    begun = time.monotonic()

    async def send(one: Watched, event: Event) -> None:
        name = plan.models[event.model]
        address, request = one.server.address, requests[event.request]
        one.answers.append(await ask(session, address, name, request, event, begun))

    async def watch() -> None:
        said = 0.0
        while (now := time.monotonic() - begun) < plan.seconds + ANSWER_SECONDS:
            for one in watched:
                one.readings.append(await read(session, one.server, now))
            if now - said > SAID_SECONDS:
                said = now
                done = ", ".join(f"{w.method.name} {len(w.answers)}" for w in watched)
                left = max(0.0, plan.seconds - now) / 60
                progress(f"answers of {len(events)}: {done}; {left:.1f} min left")
            await asyncio.sleep(plan.every)

    watching = asyncio.create_task(watch())
    asked = []
    for event in events:
        await asyncio.sleep(max(0.0, begun + event.at - time.monotonic()))
        asked += [asyncio.create_task(send(one, event)) for one in watched]
    await asyncio.gather(*asked)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def read(session: Any, server: Serving, at: float) -> Reading:
    """A server that does not answer has counted nothing, which `judge` sees."""
    memory = sizes(server.pid)
    try:
        async with session.get(f"{server.address}/metrics") as response:
            text = await response.text()
    except Exception:
        return Reading(at, memory, Counts(), {})
    return Reading(at, memory, *page_counts(text))
