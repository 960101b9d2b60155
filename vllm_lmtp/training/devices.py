"""The devices of a training run: what they compute in, who writes, who waits, and sums over all.

`accelerate launch` starts the processes and says in their environment which is which; alone, a
process is the only one. Importing this module imports no torch.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
POLL_SECONDS = 1.0
# What tells a process that it is one of several; a program it starts must not believe that too.
_LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LAUNCH_PREFIXES = ("ACCELERATE_", "FSDP_", "GROUP_", "ROLE_", "TORCHELASTIC_")


def is_main() -> bool:
    """Whether this process samples, evaluates and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device() -> str:
    """Where this process trains: its own GPU, or the CPU."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def in_bfloat16(wanted: bool) -> bool:
    """Whether to compute in bfloat16 where that is wanted: not on a GPU or an x86 CPU without
    instructions for it; on such a CPU a product takes about six times as long as in float32.
    """
    if not wanted or _has_bfloat16():
        return wanted
    log.warning("this machine has no bfloat16 instructions: computing in float32")
    return False


def _has_bfloat16() -> bool:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    # private, but torch itself offers no other way to ask
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a program that is not one of the training processes."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _LAUNCH and not name.startswith(_LAUNCH_PREFIXES)
    }


def main_first(make: Callable[[], None], is_made: Callable[[], bool]) -> None:
    """Let the main process make something on disk; the others wait until it is there.

    They look at the disk instead of waiting at a barrier, which would run into a timeout where the
    making takes hours. If the main process fails, the launcher ends the others.
    """
    if is_main():
        make()
        return
    while not is_made():
        time.sleep(POLL_SECONDS)


def summed(values: Tensor) -> Tensor:
    """The sum of `values` over the training processes, the same in each; no gradient flows."""
    total = values.detach().clone()
    if world_size() > 1:
        from torch import distributed

        distributed.all_reduce(total)
    return total
