"""Loads a stage-1 folder as the plain model it contains, with or without speculation."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around


def _create(wrapped: Any, engine_args: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.config.requested import target_overrides

    engine_args.hf_overrides = target_overrides(
        engine_args.model, engine_args.revision, engine_args.hf_overrides
    )
    return wrapped(*args, **kwargs)


PATCH = Patch(
    name="model_config",
    why="Stage-1 checkpoints name the architecture LMTPModel; vLLM takes that for a pooling model.",
    bindings=(Binding("vllm.engine.arg_utils", "EngineArgs.create_model_config", around(_create)),),
    written_against="vllm/engine/arg_utils.py, EngineArgs.create_model_config (0.32.0, 0.33.0)",
    upstream="none: the architecture name is the checkpoints' own",
    remove_when="L-MTP checkpoints name their backbone's architecture",
)
