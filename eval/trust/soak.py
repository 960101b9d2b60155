"""A server with L-MTP and one without under the same load for an hour, every answer checked.

Both serve at once and get the same requests at the same times (`schedule.py`). What is right was
answered by plain decoding before the load began, when nothing else ran.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vllm_lmtp.eval.engines.engine import LEAST_CACHE_GIB
from vllm_lmtp.eval.engines.methods import PLAIN, Method
from vllm_lmtp.eval.engines.servers import NAME, Server
from vllm_lmtp.eval.prompts.asking import Progress
from vllm_lmtp.eval.trust.client import BUFFER, ask
from vllm_lmtp.eval.trust.load import ANSWER_SECONDS, Serving, Watched, know, load, read
from vllm_lmtp.eval.trust.mixture import Request
from vllm_lmtp.eval.trust.plan import Plan, options_of
from vllm_lmtp.eval.trust.schedule import Event, schedule
from vllm_lmtp.eval.trust.trial import Conditions

FAULTS_IN_LOG = ("Traceback", "ERROR")
Start = Callable[[str, "Mapping[str, Any] | None", Mapping[str, Any], Path, int], Serving]


@dataclass(frozen=True)
class Soaked:
    """known: plain decoding's answers by request and model. bears: its tokens a second then. rate:
    requests a second of the load."""

    watched: list[Watched]
    known: dict[tuple[int, int], list[int]]
    events: list[Event]
    bears: float
    rate: float


def soak(
    methods: Sequence[Method],
    conditions: Conditions,
    requests: Sequence[Request],
    plan: Plan,
    progress: Progress,
    start: Start = Server,
) -> Soaked:
    """Serve, load, and collect.

    Args:
        methods: plain decoding first.

    Raises:
        EngineFailedError: a server did not start.
    """
    servers: list[Serving] = []
    with TemporaryDirectory() as logs:
        try:
            for number, method in enumerate(methods):
                progress(f"{method.name}: starting the server")
                config, log = method.speculative_config, Path(logs) / f"{number}.log"
                options = options_of(conditions, plan, len(methods))
                servers.append(start(conditions.model, config, options, log, LEAST_CACHE_GIB))
            found = asyncio.run(_run(methods, servers, conditions, requests, plan, progress))
            for one in found.watched:
                text = one.server.log.read_text(encoding="utf-8", errors="replace")
                lines = text.splitlines()
                one.log = [line for line in lines if any(word in line for word in FAULTS_IN_LOG)]
            return found
        finally:
            for server in servers:
                server.close()


async def _run(
    methods: Sequence[Method],
    servers: Sequence[Serving],
    conditions: Conditions,
    requests: Sequence[Request],
    plan: Plan,
    progress: Progress,
) -> Soaked:
    import aiohttp

    wait = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    # A server closes a connection that idles just when the next request takes it up.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
        timeout=wait, connector=connector, read_bufsize=BUFFER
    ) as session:
        progress(f"{PLAIN}: answering {len(requests) * len(plan.models)} requests by itself")
        known, bears = await know(session, servers[0], conditions.slots, requests, plan)
        mean = sum(map(len, known.values())) / len(known)
        rate = plan.rate or plan.load * bears / mean
        events = schedule(
            requests, len(plan.adapters), plan.seconds, rate, 2 * conditions.slots, plan.seed
        )
        progress(f"{len(events)} requests to each in {plan.seconds / 60:.1f} min")
        watched = []
        for method, server in zip(methods, servers, strict=True):
            before = (await read(session, server, 0.0)).counts
            watched.append(Watched(method, server, before))
        await load(session, watched, requests, events, plan, progress)
        last = Event(plan.seconds, 0, 0, requests[0].max_tokens, True, None)
        begun = time.monotonic() - plan.seconds
        for one in watched:  # after this answer the server says how it stands when nothing runs
            answer = await ask(session, one.server.address, NAME, requests[0], last, begun)
            one.answers.append(answer)
            one.readings.append(await read(session, one.server, plan.seconds))
    return Soaked(watched, known, events, bears, rate)
