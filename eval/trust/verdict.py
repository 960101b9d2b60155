"""Where answers differ from plain decoding's, and whether the counters agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_lmtp.eval.engines.engine import DRAFTS
from vllm_lmtp.eval.engines.variants import Variant
from vllm_lmtp.eval.measurements.rates import first_difference
from vllm_lmtp.eval.trust.counters import (
    ENDED,
    GENERATED,
    PREEMPTIONS,
    PREFIX_HITS,
    Counts,
    against_requests,
    broken,
    by_place,
    by_source,
    total,
)
from vllm_lmtp.eval.trust.margin import is_near
from vllm_lmtp.eval.trust.trial import Answered, Trial
from vllm_lmtp.observe.metrics import COLD, STEPS


def facts_of(trial: Trial) -> dict[str, Any]:
    """What it runs on."""
    return {"runner": trial.runner, "asynchronous": trial.asynchronous}


def row_of(answered: Answered) -> dict[str, Any]:
    """What is kept of a block."""
    return {
        "requests": len(answered.tokens),
        "tokens": sum(map(len, answered.tokens)),
        "seconds": answered.seconds,
        "counts": dict(answered.counts),
    }


def compared_row(
    variant: Variant,
    plain: Sequence[Sequence[int]],
    answered: Answered,
    trial: Trial,
) -> dict[str, Any]:
    """A block of L-MTP's, beside plain decoding's answers."""
    schedule, places = variant.checkpoint.schedule, trial.places
    differences = []
    for number, (expected, got) in enumerate(zip(plain, answered.tokens, strict=True)):
        place = first_difference(expected, got)
        if place is not None:
            differences.append({"request": number, "place": place, "got": got[: place + 1]})
    counts = answered.counts
    faults = broken(counts, schedule, places)
    faults += against_requests(counts, answered.steps, schedule, places)
    tokens = sum(map(len, answered.tokens))
    for what, name, wanted in (("tokens", GENERATED, tokens), ("ended", ENDED, len(plain))):
        if (counted := total(counts, name)) != wanted:
            faults.append(f"{what}: {name} grew by {counted}, the answers say {wanted}")
    return (
        row_of(answered)
        | facts_of(trial)
        | {
            "places": places,
            "differences": differences,
            "broken": faults,
        }
    )


def sums(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over the blocks of one way of decoding."""
    counts = _counts(rows)
    tokens, seconds = (sum(row[what] for row in rows) for what in ("tokens", "seconds"))
    return {
        "runner": rows[0]["runner"],
        "asynchronous": rows[0]["asynchronous"],
        "blocks": len(rows),
        "requests": sum(row["requests"] for row in rows),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "preemptions": total(counts, PREEMPTIONS),
        "prefix_hits": total(counts, PREFIX_HITS),
    }


def summary(
    variant: Variant,
    rows: Sequence[Mapping[str, Any]],
    plain: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    counts, schedule = _counts(rows), variant.checkpoint.schedule
    places = max(row["places"] for row in rows)
    lengths = {
        key.partition("draft_length=")[2].rstrip("}"): n
        for key, n in sorted(counts.items())
        if key.startswith(STEPS)
    }
    return sums(rows) | {
        "compared": sum(row["tokens"] for row in plain),
        "different": len(differences),
        "differences": [d for d in differences if "got" not in d],
        "drafts": total(counts, DRAFTS),
        "cold_drafts": total(counts, COLD),
        "by_place": by_place(counts, schedule, places),
        "by_source": by_source(counts),
        "steps_by_length": lengths,
        "broken": [f"block {n}: {fault}" for n, row in enumerate(rows) for fault in row["broken"]],
    }


def _counts(rows: Sequence[Mapping[str, Any]]) -> Counts:
    found: Counts = Counter()
    for row in rows:
        found.update(row["counts"])
    return found


def not_seen(variant: Mapping[str, Any], chunked: int) -> list[str]:
    """Of what a run is there to show, what never happened in it."""
    happened = {
        "preemption": variant["preemptions"],
        "cached prefixes": variant["prefix_hits"],
        "prompts in chunks": chunked,
        "drafts": variant["drafts"],
    }
    return [name for name, times in happened.items() if not times]


def is_fault(variant: Mapping[str, Any]) -> bool:
    """Whether answers differ by more than a near tie, or the counters do not agree."""
    shown = variant["differences"]
    unknown = variant["different"] - len(shown)
    return bool(variant["broken"] or unknown or not all(map(is_near, shown)))
