"""Brings drafts to the scheduler together with the tokens that were sampled."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around
from vllm_lmtp.worker.travelling import CARRIED, carry

EXECUTORS = {"uniproc_executor": "UniProcExecutor", "multiproc_executor": "MultiprocExecutor"}


def _send(wrapped: Any, worker: Any, args: Any, kwargs: Any) -> Any:
    output = wrapped(*args, **kwargs)
    carry(worker, output)
    return output


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
    "after each step, wanted or not: a millisecond between processes on two cores, where plain "
    "decoding's step may take ten. Then it looks at every request, drafts or not.",
    bindings=(
        Binding("vllm.v1.worker.gpu_worker", "Worker.sample_tokens", around(_send)),
        *(
            Binding(f"vllm.v1.executor.{module}", f"{executor}.{method}", around(wrapper))
            for module, executor in EXECUTORS.items()
            for method, wrapper in (("sample_tokens", _receive), ("take_draft_token_ids", _take))
        ),
    ),
    written_against="vllm/v1/worker/gpu_worker.py, vllm/v1/executor/multiproc_executor.py, "
    "uniproc_executor.py, vllm/v1/engine/core.py, EngineCore.post_step (0.32.0, 0.33.0)",
    upstream="not reported yet; ngram decoding pays it as well",
    remove_when="vLLM returns drafts with the sampled tokens, or always schedules asynchronously",
)
