"""How many drafts one request may have verified in a step, where it sets a bound of its own.

A request says so by `vllm_xargs` of the server, or `extra_args` of `SamplingParams`. Drafts beyond
the bound are dropped before a step is scheduled, wherever they are made, so the target computes no
row for them; what is written is the same with any bound.
"""

from __future__ import annotations

from typing import Any

ARGUMENT = "lmtp_max_drafts"


def check(params: Any) -> None:
    """Refuse a bound that is none, before the request reaches the engine.

    Args:
        params: vLLM's `SamplingParams`.

    Raises:
        ValueError: which vLLM's server answers with status 400.
    """
    bound = (params.extra_args or {}).get(ARGUMENT)
    if bound is None or (isinstance(bound, int) and not isinstance(bound, bool) and bound >= 0):
        return
    raise ValueError(
        f"{ARGUMENT}: found {bound!r}, expected a number of drafts, 0 for none; leave it out to "
        "have as many as the engine finds worth it"
    )


def added(scheduler: Any, request: Any) -> None:
    """A request came; whether it has a bound is asked once."""
    params = request.sampling_params
    bound = (getattr(params, "extra_args", None) or {}).get(ARGUMENT)
    if bound is not None:
        request.lmtp_bound = bound
        scheduler.lmtp_bounded = True


def keep(scheduler: Any) -> None:
    """Drop the drafts beyond their requests' bounds.

    Called once drafts have come; scheduled asynchronously, once their placeholders were set, which
    is when a step has been scheduled. Requests that wait are scheduled without drafts.
    """
    if not getattr(scheduler, "lmtp_bounded", False):
        return
    for request in scheduler.running:
        bound = getattr(request, "lmtp_bound", None)
        if bound is not None and len(request.spec_token_ids) > bound:
            # A new list: scheduled asynchronously, all requests share one of placeholders.
            request.spec_token_ids = request.spec_token_ids[:bound]
