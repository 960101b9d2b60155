"""Counts cold drafts, and warns when drafts are never accepted."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around

SCHEDULER = "vllm.v1.core.sched.scheduler"


def _schedule(wrapped: Any, scheduler: Any, args: Any, kwargs: Any) -> Any:
    output = wrapped(*args, **kwargs)
    from vllm_lmtp.observe.watch import note_admissions

    note_admissions(scheduler, output)
    return output


def _make_stats(wrapped: Any, scheduler: Any, args: Any, kwargs: Any) -> Any:
    stats = wrapped(*args, **kwargs)
    from vllm_lmtp.observe.watch import note_verdict

    note_verdict(scheduler, stats, *args, **kwargs)
    return stats


PATCH = Patch(
    name="cold_drafts",
    why="A draft is cold when its request has fewer than k finalised positions of its own; only "
    "the scheduler knows that without asking the device.",
    bindings=(
        Binding(SCHEDULER, "Scheduler.schedule", around(_schedule)),
        Binding(SCHEDULER, "Scheduler.make_spec_decoding_stats", around(_make_stats)),
    ),
    written_against="vllm/v1/core/sched/scheduler.py (0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/19993 (more detail on speculation)",
    remove_when="vLLM lets a proposer export counters of its own",
)
