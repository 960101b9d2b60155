"""Which of a target's sampled answers heads may learn from, and why the others were dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.training.data.corpus import read_records
from vllm_lmtp.training.distillation.loops import loop_start


def keep_answers(
    shards: Sequence[Path], min_tokens: int, keep_unended: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records of `shards` worth learning from, and counts by reason, in texts and tokens.

    An answer that ends in a loop is dropped whole: its repetitions would teach heads that the
    future is easy. So is one that was given before, word for word, to the same prompt.

    Args:
        min_tokens: shorter answers are dropped. keep_unended: keep those cut by a length limit.

    Raises:
        LMTPError: a line is not a record, or none is kept.
    """
    counts: Counter[str] = Counter(read=0, loops=0, short=0, unended=0, duplicates=0)
    seen: set[tuple[int, ...]] = set()
    kept = []
    for record in read_records(shards):
        counts["read"] += 1
        answer = record["tokens"][record["prompt_tokens"] :]
        key = tuple(record["tokens"])
        if len(answer) < min_tokens:
            counts["short"] += 1
        elif loop_start(answer) is not None:
            counts["loops"] += 1
        elif not record["ended"] and not keep_unended:
            counts["unended"] += 1
        elif key in seen:
            counts["duplicates"] += 1
        else:
            seen.add(key)
            kept.append(record)
    if not kept:
        raise refuse(
            str(shards[0].parent) if shards else "answers",
            "answers",
            found=f"none kept of {counts['read']}: {dict(counts)}",
            expected="answers that do not loop, of at least min_answer_tokens tokens",
            remedy="raise the temperatures or max_tokens, or lower min_answer_tokens",
        )
    tokens = sum(len(r["tokens"]) - r["prompt_tokens"] for r in kept)
    return kept, {
        **counts,
        "kept": len(kept),
        "kept_answer_tokens": tokens,
        "kept_by_source": dict(Counter(r["source"] for r in kept)),
        "kept_unended": sum(not r["ended"] for r in kept),
    }
