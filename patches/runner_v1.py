"""Lets Model Runner V1, which CPUs without Triton use, draft with leap heads."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around

RUNNER = "vllm.v1.worker.gpu_model_runner"


def _init(wrapped: Any, runner: Any, args: Any, kwargs: Any) -> None:
    from vllm_lmtp.runner_v1.proposer import LMTPProposer, as_custom_class, refuse_async

    vllm_config = kwargs.get("vllm_config") or args[0]
    refuse_async(vllm_config)
    with as_custom_class(vllm_config.speculative_config):
        wrapped(*args, **kwargs)
    drafter = getattr(runner, "drafter", None)  # earlier pipeline ranks have none
    if isinstance(drafter, LMTPProposer):
        drafter.attach(runner)


def _propose(wrapped: Any, runner: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.runner_v1.proposer import LMTPProposer

    if isinstance(runner.drafter, LMTPProposer):
        return runner.drafter.propose(*args, **kwargs)
    return wrapped(*args, **kwargs)


PATCH = Patch(
    name="runner_v1",
    why="V1 builds drafters from a closed list and hands a custom class no hidden states.",
    bindings=(
        Binding(RUNNER, "GPUModelRunner.__init__", around(_init)),
        Binding(RUNNER, "GPUModelRunner.propose_draft_token_ids", around(_propose)),
    ),
    written_against="vllm/v1/worker/gpu_model_runner.py (0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/36219 (proposer registry)",
    remove_when="vLLM removes Model Runner V1",
)
