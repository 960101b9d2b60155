"""Lets us listen to the scheduler: which drafts are cold or copied, and how long drafts should be.

What is done with what is heard stands in `vllm_lmtp.scheduler.listener`.
"""

from __future__ import annotations

import functools
from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around

SCHEDULER = "vllm.v1.core.sched.scheduler"


def _tell(heard: str, wrapped: Any, scheduler: Any, args: Any, kwargs: Any) -> Any:
    """Call a method, then tell the listener what it gave and what it was given."""
    result = wrapped(*args, **kwargs)
    from vllm_lmtp.scheduler import listener

    getattr(listener, heard)(scheduler, result, *args, **kwargs)
    return result


def _update_from_output(wrapped: Any, scheduler: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.scheduler import listener

    with listener.reading(scheduler, *args, **kwargs):
        return wrapped(*args, **kwargs)


def _told(heard: str, method: str) -> Binding:
    return Binding(SCHEDULER, f"Scheduler.{method}", around(functools.partial(_tell, heard)))


PATCH = Patch(
    name="scheduler",
    why="Only the scheduler sees how long its steps take, which drafts are accepted and which were "
    "made before all lagged rows were known; vLLM's counters there cannot be extended, and its "
    "draft lengths are a table that is written down beforehand.",
    bindings=(
        _told("made", "__init__"),
        _told("scheduled", "schedule"),
        _told("judged", "make_spec_decoding_stats"),
        Binding(SCHEDULER, "Scheduler.update_from_output", around(_update_from_output)),
        _told("report", "make_stats"),
        _told("ended", "shutdown"),
    ),
    written_against="vllm/v1/core/sched/scheduler.py (0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/19993 (more detail on speculation), "
    "https://github.com/vllm-project/vllm/issues/48627 (schedules of draft lengths)",
    remove_when="vLLM lets a proposer export counters of its own, and a draft length be found by "
    "an object that is told how steps went",
)
