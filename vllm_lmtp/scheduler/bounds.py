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
        if not hasattr(scheduler, "lmtp_bounds"):
            scheduler.lmtp_bounds = {}
        scheduler.lmtp_bounds[request.request_id] = bound


def keep(scheduler: Any) -> None:
    """Drop the drafts beyond their requests' bounds.

    Called once drafts have come; scheduled asynchronously, once their placeholders were set, which
    is when a step has been scheduled.
    """
    bounds: dict[str, int] = getattr(scheduler, "lmtp_bounds", {})
    for req_id in list(bounds):
        request = scheduler.requests.get(req_id)
        if request is None:
            del bounds[req_id]
        elif len(request.spec_token_ids) > bounds[req_id]:
            # A new list: scheduled asynchronously, all requests share one of placeholders.
            request.spec_token_ids = request.spec_token_ids[: bounds[req_id]]
