"""What a soak has shown of each server: answers, times, memory, counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from vllm_lmtp.eval.engines.engine import ACCEPTED_PER_PLACE, ACCEPTED_TOKENS, DRAFTS
from vllm_lmtp.eval.measurements.rates import first_difference
from vllm_lmtp.eval.trust.client import Answer, expected
from vllm_lmtp.eval.trust.counters import (
    ENDED,
    LEVELS,
    PREEMPTIONS,
    PREFIX_HITS,
    broken,
    by_place,
    by_source,
    difference,
    total,
)
from vllm_lmtp.eval.trust.load import Watched
from vllm_lmtp.eval.trust.margin import Margin, is_near
from vllm_lmtp.eval.trust.memory import memory_of, over
from vllm_lmtp.eval.trust.mixture import Request
from vllm_lmtp.eval.trust.plan import Plan
from vllm_lmtp.eval.trust.soak import Soaked
from vllm_lmtp.eval.trust.times import times_of
from vllm_lmtp.method.leap import LeapSchedule

SHOWN = 20
"""Wrong answers that a result holds in full."""
SIGNS = 4
"""Tokens by which an answer is known to be another request's."""


def outcome(
    soaked: Soaked,
    requests: Sequence[Request],
    plan: Plan,
    schedule: LeapSchedule,
    margin: Margin,
) -> dict[str, Any]:
    """All servers, plain decoding first, and what the growth of memory differs by."""
    servers = [_server(one, soaked, requests, plan, schedule, margin) for one in soaked.watched]
    plain, *others = (server["memory"]["total"] for server in servers)
    for server, found in zip(servers[1:], others, strict=True):
        server["memory"]["over_plain"] = over(found, plain)
    leaves = [event.leaves for event in soaked.events]
    return {
        "load": {
            "seconds": plan.seconds,
            "rate": soaked.rate,
            "bears": soaked.bears,
            "requests": len(soaked.events),
            "broken_off": sum(one is not None for one in leaves),
            "known": len(soaked.known),
            "adapters": [adapter.name for adapter in plan.adapters],
        },
        "servers": servers,
    }


def is_fault(server: dict[str, Any]) -> bool:
    """Whether an answer was lost or wrong by more than a near tie, or counters disagree."""
    return bool(server["lost"] or server["wrong"] > server["near_ties"] or server["broken"])


def _server(
    one: Watched,
    soaked: Soaked,
    requests: Sequence[Request],
    plan: Plan,
    schedule: LeapSchedule,
    margin: Margin,
) -> dict[str, Any]:
    lost = [a.failure for a in one.answers if a.failure is not None]
    whole = [a for a in one.answers if a.failure is None and not a.left]
    wrong = [
        w
        for a in one.answers
        if a.failure is None and (w := _wrong(a, soaked, requests, margin)) is not None
    ]
    missing = 1 + len(soaked.events) - len(one.answers)
    last = one.readings[-1]
    counts = difference(last.counts, one.before)
    drafts, places = total(counts, DRAFTS), _places(last.counts)
    accepted = total(counts, ACCEPTED_TOKENS)
    return one.method.facts() | {
        "answers": len(whole),
        "tokens": sum(len(a.tokens) for a in one.answers),
        "broken_off": sum(a.left for a in one.answers),
        "lost": len(lost) + missing,
        "why_lost": dict(Counter(lost)),
        "wrong": len(wrong),
        "mixed": sum(w["mixed"] for w in wrong),
        "near_ties": sum(w["near"] for w in wrong),
        "wrong_answers": wrong[:SHOWN],
        "broken": _disagreements(one, schedule, len(whole)),
        "log": one.log[:SHOWN],
        "preemptions": total(counts, PREEMPTIONS),
        "prefix_hits": total(counts, PREFIX_HITS),
        "drafts": drafts,
        "acceptance_length": 1 + accepted / drafts if drafts else None,
        "by_place": by_place(counts, schedule, places),
        "by_source": by_source(counts) if places else [],
        "times": times_of(whole),
        "memory": memory_of([(r.at, r.memory) for r in one.readings], plan.seconds),
    }


def _wrong(
    answer: Answer, soaked: Soaked, requests: Sequence[Request], margin: Margin
) -> dict[str, Any] | None:
    """None where all that arrived is right."""
    event = answer.event
    known = expected(answer, soaked.known[event.request, event.model])
    place = first_difference(known, answer.tokens)
    if place is None:
        return None
    length = len(answer.tokens)
    mixed = length >= SIGNS and any(
        other[:length] == answer.tokens for other in soaked.known.values()
    )
    found = {"request": event.request, "model": event.model, "place": place, "mixed": mixed}
    request = requests[event.request]
    found |= request.facts() | {"best_margin": None, "margin": None}
    if event.model == 0 and not mixed:
        found |= margin(request.tokens, known, answer.tokens, place)
    return found | {"near": is_near(found)}


def _places(counts: Counter[str]) -> int:
    """Of the longest draft that a server makes; 0 without speculation."""
    return sum(key.startswith(ACCEPTED_PER_PLACE) for key in counts)


def _disagreements(one: Watched, schedule: LeapSchedule, whole: int) -> list[str]:
    """What does not hold of the counters at some reading, of their course, or at the end."""
    found: list[str] = []
    for reading in one.readings:
        if not reading.levels:
            found.append(f"{reading.at:.0f} s: the server did not tell its metrics")
        elif reading.rests and (places := _places(reading.counts)):
            found += [f"{reading.at:.0f} s: {b}" for b in broken(reading.counts, schedule, places)]
    told = [reading for reading in one.readings if reading.levels]
    for earlier, later in pairwise(told):
        steps = difference(later.counts, earlier.counts)
        found += [f"{later.at:.0f} s: {key} fell by {-n}" for key, n in steps.items() if n < 0]
    if not told:
        return found
    last = told[-1]
    found += [
        f"at the end {name} is {last.levels.get(name)}" for name in LEVELS if last.levels.get(name)
    ]
    ended = difference(last.counts, one.before)
    done = sum(n for key, n in ended.items() if key.startswith(ENDED) and "abort" not in key)
    left = sum(answer.left for answer in one.answers)
    if not whole <= done <= whole + left:
        found.append(f"{done} requests ended by the counters, {whole} answers arrived whole")
    return found
