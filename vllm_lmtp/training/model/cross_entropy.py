"""Cross-entropy of a large vocabulary without ever holding its logits.

The gradients are made in the forward pass, chunk by chunk, while the logits of the chunk exist:
three matrix products in all, where making the logits again in the backward pass takes four. No
product is made for what is not trained.

Notation: N rows of hidden states, V vocabulary; H_p the size that product p sums over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy(
    products: Sequence[tuple[Tensor, Tensor]], targets: Tensor, logits_budget: int
) -> Tensor:
    """The summed cross-entropy of the logits that are the sum of all `rows @ matrix.T`.

    Under autocast the products are made in its dtype, else in that of the first matrix. The softmax
    is computed in float32 in any case, or in float64 for float64; with gradients it is stored, and
    the loss read off it, in the products' dtype.

    Args:
        products: rows [N, H_p] and matrix [V, H_p] of each.
        targets: int64 [N], all in 0..V-1.
        logits_budget: most logits held at once.

    Returns:
        A scalar, 0 for no rows. It can be differentiated once.
    """
    apply = cast(Callable[..., Tensor], _ChunkedCrossEntropy.apply)
    return apply(targets, logits_budget, *(part for product in products for part in product))


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, targets: Tensor, budget: int, *parts: Tensor) -> Tensor:
        all_rows, matrices = parts[::2], parts[1::2]
        first = all_rows[0]
        device = first.device.type
        wide = torch.float64 if first.dtype is torch.float64 else torch.float32
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        wanted = ctx.needs_input_grad[2:]
        narrow = [matrix.to(dtype or matrices[0].dtype) for matrix in matrices]
        total = torch.zeros((), dtype=wide, device=first.device)
        row_grads = [
            torch.zeros_like(r) if w else None for r, w in zip(all_rows, wanted[::2], strict=True)
        ]
        matrix_grads = [
            torch.zeros_like(m, dtype=wide) if w else None
            for m, w in zip(matrices, wanted[1::2], strict=True)
        ]
        size = max(1, budget // matrices[0].shape[0])
        with torch.autocast(device, enabled=False):
            for start in range(0, len(first), size):
                chunk = slice(start, start + size)
                rows = [r[chunk].to(m.dtype) for r, m in zip(all_rows, narrow, strict=True)]
                target = targets[chunk, None]
                logits = rows[0] @ narrow[0].T
                for r, m in zip(rows[1:], narrow[1:], strict=True):
                    logits = torch.addmm(logits, r, m.T)
                if not any(wanted):
                    total -= logits.to(wide).log_softmax(dim=1).gather(1, target).sum()
                    continue
                # Computed in float32, whatever it is stored in; a smaller p has no gradient left.
                gradient = logits.softmax(dim=1)
                chosen = gradient.gather(1, target).to(wide)
                total -= chosen.clamp(min=torch.finfo(wide).tiny).log().sum()
                # The gradient by the logits: probabilities, and at the target less all the others,
                # which keeps its digits where p - 1 would lose them.
                others = gradient.scatter_(1, target, 0).sum(dim=1, keepdim=True, dtype=wide)
                gradient.scatter_(1, target, -others.to(gradient.dtype))
                for row_grad, matrix_grad, r, m in zip(
                    row_grads, matrix_grads, rows, narrow, strict=True
                ):
                    if row_grad is not None:
                        row_grad[chunk] = gradient @ m
                    if matrix_grad is not None:
                        matrix_grad += gradient.T @ r
        ctx.save_for_backward(
            *(g for pair in zip(row_grads, matrix_grads, strict=True) for g in pair)
        )
        ctx.dtypes = [part.dtype for part in parts]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (
            None if grad is None else (grad * scale).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (None, None, *scaled)
