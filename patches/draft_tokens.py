"""Brings drafts to the scheduler together with the tokens that were sampled."""

from __future__ import annotations

from typing import Any

from vllm_lmtp import is_lmtp
from vllm_lmtp.patches.record import Binding, Patch, around

CARRIED = "lmtp_draft_token_ids"
"""Attribute of `ModelRunnerOutput` that takes the drafts along; it is pickled with the tokens."""
EXECUTOR = "vllm.v1.executor.multiproc_executor"


def _send(wrapped: Any, worker: Any, args: Any, kwargs: Any) -> Any:
    output = wrapped(*args, **kwargs)
    config = worker.vllm_config
    ours = is_lmtp(config.speculative_config)
    told = getattr(output, "model_runner_output", output)
    # Scheduled asynchronously, drafts stay on the device. Ranks that sampled nothing name no
    # request, in an output that vLLM shares between steps.
    if ours and not config.scheduler_config.async_scheduling and getattr(told, "req_ids", None):
        setattr(told, CARRIED, _without_empty(worker.take_draft_token_ids()))
    return output


def _without_empty(drafts: Any) -> Any:
    """Where no request has a draft none is named, as the scheduler has none to take back."""
    return drafts if drafts is None or any(drafts.draft_token_ids) else type(drafts)([], [])


def _receive(wrapped: Any, executor: Any, args: Any, kwargs: Any) -> Any:
    output = wrapped(*args, **kwargs)
    executor.lmtp_drafts = getattr(output, CARRIED, None)  # a future, with batches in a queue, none
    return output


def _take(wrapped: Any, executor: Any, args: Any, kwargs: Any) -> Any:
    drafts, executor.lmtp_drafts = getattr(executor, "lmtp_drafts", None), None
    return wrapped(*args, **kwargs) if drafts is None else drafts


PATCH = Patch(
    name="draft_tokens",
    why="Scheduled synchronously, vLLM asks the workers for their drafts by a call of its own "
    "after each step, wanted or not: a millisecond on two cores, where plain decoding's step may "
    "take ten.",
    bindings=(
        Binding("vllm.v1.worker.gpu_worker", "Worker.sample_tokens", around(_send)),
        Binding(EXECUTOR, "MultiprocExecutor.sample_tokens", around(_receive)),
        Binding(EXECUTOR, "MultiprocExecutor.take_draft_token_ids", around(_take)),
    ),
    written_against="vllm/v1/worker/gpu_worker.py, vllm/v1/executor/multiproc_executor.py, "
    "vllm/v1/engine/core.py, EngineCore.post_step (0.32.0, 0.33.0)",
    upstream="not reported yet; ngram decoding pays it as well",
    remove_when="vLLM returns drafts with the sampled tokens, or always schedules asynchronously",
)
