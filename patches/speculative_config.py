"""Builds an `LMTPSpeculativeConfig` when leap heads are asked for; else leaves vLLM alone."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around


def _create(wrapped: Any, engine_args: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.config.requested import asks_for_lmtp, create_config

    if asks_for_lmtp(engine_args):
        return create_config(wrapped, engine_args, args, kwargs)
    return wrapped(*args, **kwargs)


PATCH = Patch(
    name="speculative_config",
    why="vLLM's SpeculativeConfig knows a closed list of methods. While it builds its own, it is "
    "given our subclass, so that all merging of flags stays vLLM's.",
    bindings=(
        Binding("vllm.engine.arg_utils", "EngineArgs.create_speculative_config", around(_create)),
    ),
    written_against="vllm/engine/arg_utils.py, EngineArgs.create_speculative_config "
    "(0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/36219 (proposer registry)",
    remove_when="a proposer can be registered with its own config class",
    vllm=None,
)
