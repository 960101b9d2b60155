"""The product of a trained term on CPUs, where torch's own adds a third to the time of a draft.

A term's matrix is a ninth of a head's, but it is read for every place, and for few rows a product
costs what reading its matrix does. Two other forms of it are faster: transposed for one row or two,
added to the logits as it is made; and packed by vLLM, as the heads' own matrices are, for more.
Sums are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform

from vllm_lmtp.formats.int8 import quantise_rows
from vllm_lmtp.method.scorer import AddProduct, MarkovScorer, Scorer
from vllm_lmtp.worker.cpu_int8 import Int8Product, can_multiply

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
    """As `CpuProduct`, of a matrix that was int8 as stored, and is so again."""

    def __init__(self, output: torch.Tensor) -> None:
        self._product = Int8Product(*quantise_rows(output))

    def __call__(self, logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """[R, S] float32 logits, which are overwritten, and [R, r] -> [R, S]."""
        return logits.add_(self._product(known))


def speed_up(scorer: Scorer | None, int8: bool = False) -> None:
    """Let a trained term multiply as above where that is faster; anything else is left as it is.

    int8: whether its output matrix is stored in int8, and the heads are held so.
    """
    if isinstance(scorer, MarkovScorer) and current_platform.is_cpu():
        outputs = [scorer.output] if scorer.output.dim() == 2 else list(scorer.output)
        kind: Callable[[torch.Tensor], AddProduct]
        kind = CpuInt8Product if int8 and can_multiply() else CpuProduct
        scorer.products = [kind(output) for output in outputs]
