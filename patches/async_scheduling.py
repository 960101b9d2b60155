"""Adds `lmtp` to the methods that may run with asynchronous scheduling."""

from __future__ import annotations

from typing import Any, Literal

from vllm_lmtp import METHOD
from vllm_lmtp.patches.record import Binding, Patch


def _with_lmtp(methods: Any) -> Any:
    return Literal[methods, METHOD]


PATCH = Patch(
    name="async_scheduling",
    why="vLLM switches asynchronous scheduling off for methods it does not list, though the "
    "draft never needs the host.",
    bindings=(Binding("vllm.config.vllm", "EagleModelTypes", _with_lmtp),),
    written_against="vllm/config/vllm.py, VllmConfig.__post_init__ (0.32.0)",
    upstream="https://github.com/vllm-project/vllm/issues/36219 (proposer registry)",
    remove_when="0.32 is no longer supported",
    vllm=">=0.32,<0.33",  # 0.33 asks the list for Model Runner V1 only, where lmtp drafts in step
)
