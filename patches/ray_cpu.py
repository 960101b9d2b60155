"""Lets vLLM's CPU build run its workers under Ray, where it is asked to."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around

ENV = "VLLM_LMTP_RAY_CPU"
"""Set to 1 for `ray start` on every node and for vLLM. Ray must be told of pretended GPUs."""


def _device_key(original: Any) -> Any:
    return "GPU" if os.environ.get(ENV) == "1" and not original else original


def _group_of_node(
    original: Callable[..., str], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """Ranks whose names differ do not share memory, but talk over the network."""
    name = original(*args, **kwargs)
    if os.environ.get(ENV) != "1":
        return name
    return "-".join([name, socket.gethostname(), os.environ.get("VLLM_HOST_IP", "")])


PATCH = Patch(
    name="ray_cpu",
    why="vLLM's CPU platform names no Ray resource, so Ray is refused there. With "
    f"{ENV}=1 a worker takes one of the GPUs that `ray start --num-gpus` pretends to have. Real "
    "GPUs have a key of their own and are not touched. Ranks name the memory they share after the "
    "engine alone, so ranks of two nodes would wait for each other in memories of their own; with "
    f"{ENV}=1 the node is part of the name.",
    bindings=(
        Binding("vllm.platforms.interface", "Platform.ray_device_key", _device_key),
        Binding(
            "vllm.distributed.device_communicators.cpu_communicator",
            "_CPUSHMDistributed.make_group_name",
            around(_group_of_node),
        ),
    ),
    written_against="vllm/platforms/interface.py, Platform.ray_device_key; read in "
    "vllm/v1/executor/{ray_utils,ray_executor,ray_executor_v2}.py; "
    "vllm/distributed/device_communicators/cpu_communicator.py (0.32.0, 0.33.0)",
    upstream="not reported; vLLM's CPU backend supports mp alone",
    remove_when="CpuPlatform has a Ray resource",
)
