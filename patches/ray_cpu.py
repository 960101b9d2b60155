"""Lets vLLM's CPU build run its workers under Ray, where it is asked to."""

from __future__ import annotations

import os
from typing import Any

from vllm_lmtp.patches.record import Binding, Patch

ENV = "VLLM_LMTP_RAY_CPU"
"""Set to 1 for `ray start` on every node and for vLLM. Ray must be told of pretended GPUs."""


def _device_key(original: Any) -> Any:
    return "GPU" if os.environ.get(ENV) == "1" and not original else original


PATCH = Patch(
    name="ray_cpu",
    why="vLLM's CPU platform names no Ray resource, so Ray is refused there. With "
    f"{ENV}=1 a worker takes one of the GPUs that `ray start --num-gpus` pretends to have. Real "
    "GPUs have a key of their own and are not touched.",
    bindings=(Binding("vllm.platforms.interface", "Platform.ray_device_key", _device_key),),
    written_against="vllm/platforms/interface.py, Platform.ray_device_key; read in "
    "vllm/v1/executor/{ray_utils,ray_executor,ray_executor_v2}.py (0.32.0, 0.33.0)",
    upstream="not reported; vLLM's CPU backend supports mp alone",
    remove_when="CpuPlatform has a Ray resource",
)
