"""Drafts travel to the scheduler with the tokens that were sampled."""

from __future__ import annotations

from typing import Any

from vllm_lmtp import is_lmtp

CARRIED = "lmtp_draft_token_ids"
"""Attribute of `ModelRunnerOutput` that takes the drafts along; it is pickled with the tokens."""


def carry(worker: Any, output: Any) -> None:
    """Put a step's drafts into what the worker returns for it.

    Scheduled asynchronously, drafts stay on the device.

    Args:
        worker: vLLM's. output: of its `sample_tokens`.
    """
    config = worker.vllm_config
    told = getattr(output, "model_runner_output", output)
    # Ranks that sampled nothing name no request, in an output that vLLM shares between steps.
    if not is_lmtp(config.speculative_config) or not getattr(told, "req_ids", None):
        return
    if not config.scheduler_config.async_scheduling:
        setattr(told, CARRIED, _without_empty(worker.take_draft_token_ids()))


def _without_empty(drafts: Any) -> Any:
    """Where no request has a draft none is named, as the scheduler has none to take back."""
    return drafts if drafts is None or any(drafts.draft_token_ids) else type(drafts)([], [])
