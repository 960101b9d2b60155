"""One request over HTTP, as a client asks that may break off on its way."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_lmtp.eval.trust.mixture import Request
from vllm_lmtp.eval.trust.schedule import Event

SECONDS_OF_A_TOKEN = 0.01
"""One that does not stream breaks off after so many for each token of `Event.leaves`."""
BUFFER = 2**20
"""Of a line of a stream; the first one repeats the prompt."""


@dataclass
class Answer:
    """tokens: that arrived. sent, first, ended: seconds after the load began, first only of
    streams. left: the client broke off. failure: what went wrong, None if nothing."""

    event: Event
    sent: float
    tokens: list[int] = field(default_factory=list)
    first: float | None = None
    ended: float | None = None
    left: bool = False
    failure: str | None = None


async def ask(
    session: Any, address: str, model: str, request: Request, event: Event, begun: float
) -> Answer:
    """Ask and collect. Whatever goes wrong is the answer's failure.

    Args:
        session: of aiohttp. begun: when the load began, by the monotonic clock.
    """
    answer = Answer(event, time.monotonic() - begun)
    body = {
        "model": model,
        "prompt": list(request.tokens),
        "max_tokens": event.max_tokens,
        "temperature": 0.0,
        "ignore_eos": request.ignore_eos,
        "stream": event.streamed,
        "return_token_ids": True,
    }
    url = f"{address}/v1/completions"
    try:
        if event.streamed:
            await _stream(session, url, body, answer, begun)
        elif event.leaves is None:
            await _whole(session, url, body, answer)
        else:
            wait = SECONDS_OF_A_TOKEN * event.leaves
            await asyncio.wait_for(_whole(session, url, body, answer), wait)
    except Exception as error:  # whatever it is, it is what the client got
        if isinstance(error, TimeoutError) and event.leaves is not None and not event.streamed:
            answer.left = True
        else:
            answer.failure = f"{type(error).__name__}: {error}"
    answer.ended = time.monotonic() - begun
    return answer


async def _whole(session: Any, url: str, body: dict[str, Any], answer: Answer) -> None:
    async with session.post(url, json=body) as response:
        response.raise_for_status()
        found = await response.json()
    answer.tokens = list(found["choices"][0]["token_ids"])


async def _stream(
    session: Any, url: str, body: dict[str, Any], answer: Answer, begun: float
) -> None:
    leaves = answer.event.leaves
    async with session.post(url, json=body) as response:
        response.raise_for_status()
        reason = None
        async for line in response.content:
            if leaves is not None and len(answer.tokens) >= leaves:
                answer.left = True
                response.close()
                return
            text = line.decode().strip().removeprefix("data: ")
            if not text or text == "[DONE]":
                continue
            found = json.loads(text)
            if "error" in found:
                raise RuntimeError(str(found["error"]))
            choice = found["choices"][0]
            if choice["token_ids"] and answer.first is None:
                answer.first = time.monotonic() - begun
            answer.tokens += choice["token_ids"]
            reason = choice["finish_reason"] or reason
    if reason is None:
        raise RuntimeError("the stream ended before the answer")


def expected(answer: Answer, known: Sequence[int]) -> list[int]:
    """What should have arrived. known: the longest answer, plain decoding's."""
    whole = list(known[: answer.event.max_tokens])
    return whole[: len(answer.tokens)] if answer.left else whole
