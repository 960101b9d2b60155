"""Counters of one engine, read inside its process or from a server's page, and what must hold of
them: what was drafted is what was accepted and what was refused, by place, head, lag and source,
and nothing is negative. docs/metrics.md defines each number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from vllm_lmtp.eval.engines.engine import (
    ACCEPTED_PER_PLACE,
    ACCEPTED_TOKENS,
    DRAFT_TOKENS,
    DRAFTS,
    Steps,
)
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.observe.metrics import (
    ACCEPTED,
    ACCEPTED_BY_SOURCE,
    COLD,
    DRAFTED,
    DRAFTED_BY_SOURCE,
    FROM_COPY,
    FROM_HEAD,
    STEPS,
)

PREEMPTIONS = "vllm:num_preemptions"
PREFIX_HITS = "vllm:prefix_cache_hits"
GENERATED = "vllm:generation_tokens"
ENDED = "vllm:request_success"
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
CACHE_IN_USE = "vllm:kv_cache_usage_perc"
COUNTED = (
    DRAFTS,
    DRAFT_TOKENS,
    ACCEPTED_TOKENS,
    ACCEPTED_PER_PLACE,
    DRAFTED,
    ACCEPTED,
    DRAFTED_BY_SOURCE,
    ACCEPTED_BY_SOURCE,
    COLD,
    STEPS,
    PREEMPTIONS,
    PREFIX_HITS,
    GENERATED,
    ENDED,
)
LEVELS = (RUNNING, WAITING, CACHE_IN_USE)
"""Which go up and down."""
LABELS = ("head", "lag", "position", "source", "draft_length", "finished_reason")
"""Those that tell the numbers of one name apart; over others they are summed."""

Counts = Counter[str]
"""Each number by `key_of` its name and labels."""


def key_of(name: str, **labels: Any) -> str:
    """The name and, in braces, the labels."""
    words = [f"{label}={labels[label]}" for label in LABELS if label in labels]
    return f"{name}{{{','.join(words)}}}" if words else name


def engine_counts(llm: Any) -> Counts:
    """What an engine in this process has counted."""
    found: Counts = Counter()
    for metric in llm.get_metrics():
        if metric.name == ACCEPTED_PER_PLACE:
            for place, value in enumerate(metric.values):
                found[key_of(metric.name, position=place)] += value
        elif metric.name in COUNTED:
            found[key_of(metric.name, **metric.labels)] += metric.value
    return found


def page_counts(text: str) -> tuple[Counts, dict[str, float]]:
    """What a server's `/metrics` says: what it has counted, and LEVELS."""
    from prometheus_client.parser import text_string_to_metric_families

    found: Counts = Counter()
    levels: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.name in COUNTED and sample.name.endswith("_total"):
                found[key_of(family.name, **sample.labels)] += int(sample.value)
            elif family.name in LEVELS:
                levels[family.name] = levels.get(family.name, 0.0) + sample.value
    return found, levels


def difference(after: Counts, before: Counts) -> Counts:
    """What was counted between two readings, what fell in it as less than nothing."""
    return Counter({key: after[key] - before[key] for key in {*after, *before}})


def total(counts: Counts, name: str) -> int:
    """Over all labels."""
    return sum(n for key, n in counts.items() if key == name or key.startswith(name + "{"))


def by_place(counts: Counts, schedule: LeapSchedule, places: int) -> list[dict[str, int]]:
    """Of each place of the draft: head, lag, drafted, accepted, refused."""
    found = []
    for source in schedule.sources(places):
        labels = {"head": source.head, "lag": source.lag}
        drafted, accepted = (counts[key_of(name, **labels)] for name in (DRAFTED, ACCEPTED))
        sums = {"drafted": drafted, "accepted": accepted, "refused": drafted - accepted}
        found.append(labels | sums)
    return found


def by_source(counts: Counts) -> list[dict[str, Any]]:
    """The same by whether the text decided the tokens."""
    found = []
    for source in (FROM_HEAD, FROM_COPY):
        drafted, accepted = (
            counts[key_of(name, source=source)] for name in (DRAFTED_BY_SOURCE, ACCEPTED_BY_SOURCE)
        )
        sums = {"drafted": drafted, "accepted": accepted, "refused": drafted - accepted}
        found.append({"source": source} | sums)
    return found


def broken(counts: Counts, schedule: LeapSchedule, places: int) -> list[str]:
    """What does not hold of the counters, in words; nothing where all does.

    Args:
        places: of the longest draft.
    """
    found = [f"{key} is {value:g}" for key, value in sorted(counts.items()) if value < 0]
    rows = by_place(counts, schedule, places)
    sources = by_source(counts)
    for what, theirs in (("drafted", DRAFT_TOKENS), ("accepted", ACCEPTED_TOKENS)):
        expected = total(counts, theirs)
        for kind, parts in (("head and lag", rows), ("source", sources)):
            if (got := sum(int(part[what]) for part in parts)) != expected:
                found.append(f"{what} by {kind} is {got} in all, {theirs} {expected}")
    for part in [*rows, *sources]:
        if part["refused"] < 0:
            found.append(f"more accepted than drafted: {part}")
    per_place = [counts[key_of(ACCEPTED_PER_PLACE, position=p)] for p in range(places)]
    if per_place != [row["accepted"] for row in rows]:
        found.append(f"accepted by place is {per_place}, by head and lag {rows}")
    for what in ("drafted", "accepted"):
        chain = [row[what] for row in rows]
        if chain != sorted(chain, reverse=True):
            found.append(f"{what} grows along the draft: {chain}")
    drafts = total(counts, DRAFTS)
    if rows[0]["drafted"] > drafts or total(counts, COLD) > drafts:
        found.append(f"{drafts} drafts, first places {rows[0]['drafted']}, {counts[COLD]} cold")
    return found


def against_requests(
    counts: Counts, requests: Iterable[Steps], schedule: LeapSchedule, places: int
) -> list[str]:
    """Where the counters differ from what vLLM wrote of each request by itself."""
    requests = list(requests)
    found = []
    rows = by_place(counts, schedule, places)
    for what, steps in (
        ("drafted", [n for r in requests for n in r.drafted]),
        ("accepted", [n for r in requests for n in r.accepted]),
    ):
        expected = _reaching(steps, places)
        got = [row[what] for row in rows]
        if got != expected:
            found.append(f"{what} by place is {got} in all, of the requests {expected}")
    return found


def _reaching(lengths: Sequence[int], places: int) -> list[int]:
    """How many are longer than each place."""
    return [sum(length > place for length in lengths) for place in range(places)]
