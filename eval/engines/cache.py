"""How large a cache a load needs on a CPU, where the engines of a comparison share the memory.

Too small a cache puts requests off, which a speed would blame on the method; too large a one keeps
the next engine out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psutil

from vllm_lmtp.errors import LMTPError
from vllm_lmtp.eval.engines.engine import LEAST_CACHE_GIB
from vllm_lmtp.eval.engines.methods import Method
from vllm_lmtp.eval.prompts.asking import ROOM_FOR_DRAFT, Questions, Settings
from vllm_lmtp.formats.hub import resolve_folder

GIB = 2**30
BLOCK = 128
"""Tokens of a block of vLLM's cache on CPUs."""
SHARE = 4
"""No cache takes more than one such part of the machine's memory."""

Load = tuple[Sequence[list[int]], int]
"""Prompts, and how many of them are in flight at once."""


def needed_gib(
    method: Method, questions: Questions, settings: Settings, loads: Iterable[Load]
) -> int:
    """For the largest load, and for the longest request that an engine must take, asked or not; at
    least LEAST_CACHE_GIB, and at most a part of the machine's memory. Whole, as vLLM wants it."""
    models = [settings.model, *([] if method.drafter is None else [method.drafter])]
    token = sum(token_bytes(model, settings.dtype) for model in models)
    beside = settings.max_tokens + ROOM_FOR_DRAFT
    blocks = [_blocks([len(p) + beside for p in asked], at_once) for asked, at_once in loads]
    needed = max(_blocks([questions.context], 1), *blocks) * BLOCK * token
    most = psutil.virtual_memory().total // SHARE // GIB
    return max(LEAST_CACHE_GIB, min(-(-needed // GIB), most))


def token_bytes(model: str, dtype: str) -> int:
    """Bytes of the keys and values of a token in all layers; 0 where its configuration does not
    say, or cannot be read, of which the engine will tell.

    A layer that keeps less, as one with a sliding window does, counts like the others.
    """
    from transformers import AutoConfig

    try:
        folder = resolve_folder(model)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    except (LMTPError, OSError, ValueError):
        return 0
    heads = _number(config, "num_attention_heads")
    width = _number(config, "head_dim") or _number(config, "hidden_size") // max(1, heads)
    kept = _number(config, "num_key_value_heads") or heads
    return 2 * _number(config, "num_hidden_layers") * kept * width * _value_bytes(config, dtype)


def _blocks(tokens: Sequence[int], at_once: int) -> int:
    """Of the largest requests, and the one that vLLM keeps empty."""
    return 1 + sum(-(-number // BLOCK) for number in sorted(tokens)[-at_once:])


def _value_bytes(config: Any, dtype: str) -> int:
    name = str(getattr(config, "dtype", None)) if dtype == "auto" else dtype
    return 2 if name.endswith("float16") else 4


def _number(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else 0
