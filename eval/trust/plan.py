"""How long a soak lasts, how much is asked of the servers, and with which options they serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm_lmtp.eval.engines.servers import NAME
from vllm_lmtp.eval.trust.trial import BLOCK, Conditions

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters, as vLLM takes them."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that requests take turns with. name: over HTTP. rank: of its matrices."""

    name: str
    folder: str
    rank: int


@dataclass(frozen=True)
class Plan:
    """seconds: of the load. load: share of what plain decoding bears, where rate is None. rate:
    requests a second. every: seconds between two readings of memory and metrics."""

    seconds: float
    load: float
    rate: float | None
    every: float
    seed: int
    adapters: tuple[Adapter, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """What requests name, the target first."""
        return (NAME, *(adapter.name for adapter in self.adapters))


def options_of(conditions: Conditions, plan: Plan, count: int) -> dict[str, Any]:
    """Of `vllm serve`."""
    options: dict[str, Any] = {
        "dtype": conditions.dtype,
        "max-num-seqs": conditions.slots,
        "max-model-len": conditions.context,
        "max-num-batched-tokens": conditions.chunk,
        # So small a cache is soon used in all its parts, and memory grows no more by that.
        "num-gpu-blocks-override": conditions.blocks,
        "block-size": BLOCK,
        "gpu-memory-utilization": 0.9 / count,
        "seed": 0,
    }
    if conditions.eager:
        options["enforce-eager"] = True
    if plan.adapters:
        ranks = [rank for rank in RANKS if rank >= max(a.rank for a in plan.adapters)]
        options["enable-lora"] = True
        options["max-lora-rank"] = ranks[0]
        # One place more: with all taken, vLLM's CPU kernels give the last one to whoever has none.
        options["max-loras"] = len(plan.adapters) + 1
        options["lora-modules"] = [f"{a.name}={a.folder}" for a in plan.adapters]
    return options
