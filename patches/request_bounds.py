"""Lets one request bound how many drafts it has: `vllm_xargs={"lmtp_max_drafts": 2}`."""

from __future__ import annotations

from typing import Any

from vllm_lmtp import is_lmtp
from vllm_lmtp.patches.record import Binding, Patch, around

SCHEDULER = "vllm.v1.core.sched.scheduler"


def _verify(wrapped: Any, params: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.scheduler.bounds import check

    def call(model_config: Any, speculative_config: Any, *others: Any, **more: Any) -> Any:
        if is_lmtp(speculative_config):
            check(params)
        return wrapped(model_config, speculative_config, *others, **more)

    return call(*args, **kwargs)


def _add_request(wrapped: Any, scheduler: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.scheduler.bounds import added

    if is_lmtp(scheduler.vllm_config.speculative_config):
        added(scheduler, *args, **kwargs)
    return wrapped(*args, **kwargs)


def _update_draft_token_ids(wrapped: Any, scheduler: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.scheduler.bounds import keep

    wrapped(*args, **kwargs)
    keep(scheduler)


PATCH = Patch(
    name="request_bounds",
    why="vLLM chooses the number of drafts for all requests of a step; an operator cannot switch "
    "them off, or bound them, for one request.",
    bindings=(
        Binding("vllm.sampling_params", "SamplingParams.verify", around(_verify)),
        Binding(SCHEDULER, "Scheduler.add_request", around(_add_request)),
        Binding(SCHEDULER, "Scheduler.update_draft_token_ids", around(_update_draft_token_ids)),
    ),
    written_against="vllm/sampling_params.py, vllm/v1/core/sched/scheduler.py (0.32.0)",
    upstream="not reported yet",
    remove_when="a request can bound its drafts in vLLM itself",
)
