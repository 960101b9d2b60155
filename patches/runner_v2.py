"""Lets Model Runner V2 draft with leap heads."""

from __future__ import annotations

from typing import Any

from vllm_lmtp import is_lmtp
from vllm_lmtp.patches.record import Binding, Patch, around


def _init_speculator(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    vllm_config = kwargs.get("vllm_config") or args[0]
    if not is_lmtp(vllm_config.speculative_config):
        return wrapped(*args, **kwargs)
    from vllm_lmtp.runner_v2.speculator import LMTPSpeculator

    return LMTPSpeculator(*args, **kwargs)


PATCH = Patch(
    name="runner_v2",
    why="V2 builds speculators from a closed list.",
    bindings=(
        Binding("vllm.v1.worker.gpu.model_runner", "init_speculator", around(_init_speculator)),
    ),
    written_against="vllm/v1/worker/gpu/spec_decode/__init__.py, init_speculator; bound by name in "
    "vllm/v1/worker/gpu/model_runner.py (0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/36219 (proposer registry)",
    remove_when="speculators can be registered",
)
