"""Acceptance by position, head and lag, from counters. docs/metrics.md defines each number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_lmtp.cli.engines import ACCEPTED_TOKENS, DRAFT_TOKENS, DRAFTS, ENGINE_STEPS, Run
from vllm_lmtp.leap import LeapSchedule, Source
from vllm_lmtp.metrics import ACCEPTED, COLD, DRAFTED


def summarise(schedule: LeapSchedule, run: Run) -> dict[str, Any]:
    """What the counters of an L-MTP run say.

    mean_acceptance_length: 1 + accepted / drafts, as vLLM counts it. tokens_per_step: tokens
    generated over engine steps, the prompts' own steps included. Rates are None where nothing was
    drafted.
    """
    counters = run.counters
    drafts, accepted = counters[DRAFTS], counters[ACCEPTED_TOKENS]
    steps = counters[ENGINE_STEPS]
    places = [
        {
            "place": place,
            "offset": place + 2,
            "head": source.head,
            "lag": source.lag,
            "drafted": counters[DRAFTED, source.head, source.lag],
            "accepted": counters[ACCEPTED, source.head, source.lag],
        }
        for place, source in enumerate(schedule.sources(schedule.max_drafts))
    ]
    return {
        "drafts": drafts,
        "draft_tokens": counters[DRAFT_TOKENS],
        "accepted_tokens": accepted,
        "mean_acceptance_length": 1 + accepted / drafts if drafts else None,
        "tokens_per_step": run.num_tokens / steps if steps else None,
        "engine_steps": steps,
        "cold_drafts": counters[COLD],
        "by_position": [_with_rate(place) for place in places],
        "by_head": _grouped(schedule, places, "head", lambda source: source.head),
        "by_lag": _grouped(schedule, places, "lag", lambda source: source.lag),
    }


def _grouped(
    schedule: LeapSchedule,
    places: list[dict[str, int]],
    name: str,
    key: Callable[[Source], int],
) -> list[dict[str, Any]]:
    """The places added up by head or by lag."""
    groups: dict[int, dict[str, int]] = {}
    for place in places:
        value = key(schedule.source(place["place"]))
        group = groups.setdefault(value, {name: value, "drafted": 0, "accepted": 0})
        group["drafted"] += place["drafted"]
        group["accepted"] += place["accepted"]
    return [_with_rate(groups[value]) for value in sorted(groups)]


def _with_rate(counted: dict[str, int]) -> dict[str, Any]:
    drafted = counted["drafted"]
    return counted | {"rate": counted["accepted"] / drafted if drafted else None}
