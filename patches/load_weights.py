"""Keeps the heads' tensors away from the backbone's weight loader."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around


def _create_model(wrapped: Any, loader: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.formats.checkpoint import HEAD_TYPE
    from vllm_lmtp.formats.tensors import OUR_PREFIXES

    model = wrapped(*args, **kwargs)
    model_config = kwargs.get("model_config") or args[1]
    if getattr(model_config.hf_config, "head_type", None) == HEAD_TYPE:
        load_weights = model.load_weights

        def without_heads(weights: Iterable[tuple[str, Any]], *more: Any, **options: Any) -> Any:
            backbone = ((n, w) for n, w in weights if not n.startswith(OUR_PREFIXES))
            return load_weights(backbone, *more, **options)

        model.load_weights = without_heads
    return model


PATCH = Patch(
    name="load_weights",
    why="vLLM's models refuse tensors they do not know, and stage-1 files hold heads.* too, and "
    "scorer.*.",
    bindings=(
        Binding(
            "vllm.model_executor.model_loader.base_loader",
            "BaseModelLoader.create_model",
            around(_create_model),
        ),
    ),
    written_against="vllm/model_executor/model_loader/base_loader.py (0.32.0, 0.33.0)",
    upstream="none: the file layout is the checkpoints' own",
    remove_when="vLLM lets a plugin name prefixes to skip",
)
