"""Lets `vllm serve HEADS` find the target that a folder of heads names."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around


def _override(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.config.served_alone import check, resolve

    def call(model: str, *others: Any, vllm_speculative_config: Any = None, **more: Any) -> Any:
        check(model)
        found = wrapped(model, *others, vllm_speculative_config=vllm_speculative_config, **more)
        return resolve(model, vllm_speculative_config, found)

    return call(*args, **kwargs)


PATCH = Patch(
    name="served_alone",
    why="vLLM reads target and method from a drafter's folder in the form of speculators. It takes "
    "a target's path as from where it was started, not from the folder, and the number of tokens a "
    "draft can have as the number that each should have.",
    bindings=(
        Binding("vllm.engine.arg_utils", "maybe_override_with_speculators", around(_override)),
    ),
    written_against="vllm/engine/arg_utils.py, EngineArgs.create_engine_config; "
    "vllm/transformers_utils/config.py (0.32.0)",
    upstream="not reported yet",
    remove_when="targets may be relative to the drafter's folder, and a method may choose its own "
    "draft length",
)
