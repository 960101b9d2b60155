"""Brings what only the worker knows of its drafts to the scheduler: their time and sources."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around

SAMPLE = "GPUModelRunner.sample_tokens"


def _sample_tokens(wrapped: Any, runner: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.worker import clock, sources

    output = wrapped(*args, **kwargs)
    clock.carry(runner, output)
    sources.carry(runner, output)
    return output


PATCH = Patch(
    name="draft_reports",
    why="Only the worker knows how long a draft takes and which of its tokens were copied from the "
    "text, and vLLM's outputs have no room for what a drafter would report.",
    bindings=(
        Binding("vllm.v1.worker.gpu_model_runner", SAMPLE, around(_sample_tokens)),
        Binding("vllm.v1.worker.gpu.model_runner", SAMPLE, around(_sample_tokens)),
    ),
    written_against="vllm/v1/worker/gpu_model_runner.py, vllm/v1/worker/gpu/model_runner.py "
    "(0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/7586 (propose, score and verify time)",
    remove_when="vLLM lets a proposer export metrics of its own",
)
