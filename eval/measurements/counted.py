"""Acceptance by position, head and lag, from counters. docs/metrics.md defines each number."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.eval.engines.engine import (
    ACCEPTED_TOKENS,
    DRAFT_TOKENS,
    DRAFTS,
    ENGINE_STEPS,
    Run,
    by_source,
)
from vllm_lmtp.eval.measurements.places import by_place
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.observe.metrics import ACCEPTED, COLD, DRAFTED


def summarise(schedule: LeapSchedule, run: Run) -> dict[str, Any]:
    """What the counters of an L-MTP run say.

    mean_acceptance_length: 1 + accepted / drafts, as vLLM counts it. tokens_per_step: tokens
    generated over engine steps, the prompts' own steps included. Rates are None where nothing was
    drafted.
    """
    counters = run.counters
    drafts, accepted = counters[DRAFTS], counters[ACCEPTED_TOKENS]
    steps = counters[ENGINE_STEPS]
    sources = schedule.sources(schedule.max_drafts)
    places = by_place(
        schedule,
        [counters[DRAFTED, source.head, source.lag] for source in sources],
        [counters[ACCEPTED, source.head, source.lag] for source in sources],
    )
    return {
        "drafts": drafts,
        "draft_tokens": counters[DRAFT_TOKENS],
        "accepted_tokens": accepted,
        "mean_acceptance_length": 1 + accepted / drafts if drafts else None,
        "tokens_per_step": run.num_tokens / steps if steps else None,
        "engine_steps": steps,
        "cold_drafts": counters[COLD],
        "by_source": by_source(counters),
        **places,
    }
