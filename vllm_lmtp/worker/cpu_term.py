"""The product of a trained term on CPUs, where torch's own adds a third to the time of a draft.

A term's matrix is a ninth of a head's, but it is read for every place, and for few rows a product
costs what reading its matrix does. Two other forms of it are faster: transposed for one row or two,
added to the logits as it is made; and packed by vLLM, as the heads' own matrices are, for more.
Where heads stay int8 a term that is stored so does, too (cpu_int8.py).
Sums are the same up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform

from vllm_lmtp.method.scorer import MarkovScorer, Scorer
from vllm_lmtp.worker.cpu_int8 import Int8Product

FEW = 2
"""Rows up to which the transposed matrix is faster; by eval/measurements/draft_cost.py."""


class CpuProduct:
    """Adds known . output[x] to logits.

    Args:
        output: [S, r].
    """

    def __init__(self, output: torch.Tensor) -> None:
        self.transposed = output.t().contiguous()
        self.packed: Any = nn.Module()
        self.packed.weight = nn.Parameter(output, requires_grad=False)
        dispatch_cpu_unquantized_gemm(self.packed, remove_weight=False)

    def __call__(self, logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """[R, S] float32 logits, which are overwritten, and [R, r] -> [R, S]."""
        if len(known) <= FEW and known.dtype == logits.dtype:
            return logits.addmm_(known, self.transposed)
        return logits.add_(self.packed.cpu_linear(known, self.packed.weight, None))


class CpuInt8Product:
    """As `CpuProduct`, of a matrix as it is stored in int8.

    Args:
        values: [S, r] int8. scales: [S] float32.
    """

    def __init__(self, values: torch.Tensor, scales: torch.Tensor) -> None:
        self._product = Int8Product(values, scales)

    def __call__(self, logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """[R, S] float32 logits, which are overwritten, and [R, r] -> [R, S]."""
        return logits.add_(self._product(known))


def speed_up(
    scorer: Scorer | None, stored: tuple[torch.Tensor, torch.Tensor] | None = None
) -> None:
    """Let a trained term multiply as above where that is faster; anything else is left as it is.

    stored: its output matrix and scales in int8 (scorer_weights.py), where it stays so.
    """
    if not isinstance(scorer, MarkovScorer) or not current_platform.is_cpu():
        return
    shared = scorer.output.dim() == 2
    if stored is None:
        outputs = [scorer.output] if shared else list(scorer.output)
        scorer.products = [CpuProduct(output) for output in outputs]
        return
    pairs = [stored] if shared else list(zip(*stored, strict=True))
    scorer.products = [CpuInt8Product(*pair) for pair in pairs]
    scorer.output = scorer.output.new_empty(0)  # nothing reads it any more
