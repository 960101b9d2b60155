"""Watches drafts in the scheduler: which are cold, and whether any is ever accepted.

A draft is cold when it was made before k positions of its request had been computed since the
request was admitted: after a one-token prompt, or when a cached prefix left one token to compute.
Its lagged rows are unknown then (`history.Rows.known`), and its first token is a guess. vLLM pads
some requests with drafts that nobody made; those count as cold too.
"""

from __future__ import annotations

from typing import Any

from vllm.logger import init_logger

from vllm_lmtp import is_lmtp
from vllm_lmtp.method.copying import Origin
from vllm_lmtp.observe.carried import add_cold_draft, add_copied_tokens, add_draft_passes

logger = init_logger("vllm.lmtp")

REFUSED_IN_A_ROW = 300


def note_admissions(scheduler: Any, output: Any) -> None:
    """Remember where each request that was admitted in this step starts to be computed."""
    if not _drafts_with_lmtp(scheduler):
        return
    resumed = output.scheduled_cached_reqs
    admitted = [(new.req_id, new.num_computed_tokens) for new in output.scheduled_new_reqs]
    if resumed.resumed_req_ids:
        admitted += [
            (req_id, computed)
            for req_id, computed in zip(resumed.req_ids, resumed.num_computed_tokens, strict=True)
            if req_id in resumed.resumed_req_ids
        ]
    for req_id, computed in admitted:
        scheduler.requests[req_id].lmtp_start = computed
        scheduler.requests[req_id].lmtp_origins = ()  # a draft from before a preemption is gone


def note_verdict(
    scheduler: Any,
    stats: Any,
    num_draft_tokens: int,
    num_accepted_tokens: int,
    num_invalid_spec_tokens: dict[str, int] | None,
    request_id: str,
) -> None:
    """Look at one draft that the target has just judged.

    stats: the step's `SpecDecodingStats`, None when statistics are off.
    """
    if not num_draft_tokens or not _drafts_with_lmtp(scheduler):
        return
    config = scheduler.vllm_config.speculative_config
    request = scheduler.requests[request_id]
    # The newest token was sampled when the draft was made, so its own position was not computed.
    known = request.num_tokens - 1 - getattr(request, "lmtp_start", 0)
    if stats is not None and known < config.lmtp_stride:
        add_cold_draft(stats)
    origins = getattr(request, "lmtp_origins", ())
    if stats is not None and Origin.TEXT in origins:
        # What a grammar has ruled out stands at a draft's end, and vLLM does not count it.
        judged = num_draft_tokens - (num_invalid_spec_tokens or {}).get(request_id, 0)
        copied, accepted = origins[:judged], origins[:num_accepted_tokens]
        add_copied_tokens(stats, copied.count(Origin.TEXT), accepted.count(Origin.TEXT))
    if stats is not None and (passes := getattr(scheduler, "lmtp_passes", None)):
        add_draft_passes(stats, list(passes))
        passes.clear()
    _warn_if_never_accepted(scheduler, config, num_accepted_tokens)


def _drafts_with_lmtp(scheduler: Any) -> bool:
    """Diffusion models count drafts too, and have no speculative config at all."""
    return is_lmtp(scheduler.vllm_config.speculative_config)


def _warn_if_never_accepted(scheduler: Any, config: Any, num_accepted: int) -> None:
    refused = 0 if num_accepted else getattr(scheduler, "lmtp_refused", 0) + 1
    scheduler.lmtp_refused = refused
    if refused == REFUSED_IN_A_ROW:
        logger.warning_once(
            "L-MTP: %d drafts in a row were refused at their first token. The output is right, but "
            "these heads do not help: they may belong to another model, or their stride is not %d. "
            "`vllm-lmtp doctor --heads %s --target %s` measures what they know of it.",
            refused,
            config.lmtp_stride,
            config.model,
            scheduler.vllm_config.model_config.model,
        )
