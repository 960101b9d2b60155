"""Cross-entropy of a large vocabulary without ever holding its logits.

The gradients are made in the forward pass, chunk by chunk, while the logits of the chunk exist:
three matrix products in all, where making the logits again in the backward pass takes four.

Notation: N rows, H their size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy(rows: Tensor, matrix: Tensor, targets: Tensor, logits_budget: int) -> Tensor:
    """The summed cross-entropy of the logits `rows @ matrix.T`.

    Under autocast the products are made in its dtype; the softmax is float32 in any case, or
    float64 for float64 rows.

    Args:
        rows: [N, H]. matrix: [V, H]. targets: int64 [N], all in 0..V-1.
        logits_budget: most logits held at once.

    Returns:
        A scalar, 0 for no rows. It can be differentiated once.
    """
    apply = cast(Callable[..., Tensor], _ChunkedCrossEntropy.apply)
    return apply(rows, matrix, targets, logits_budget)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor, targets: Tensor, budget: int) -> Tensor:
        device = rows.device.type
        wide = torch.float64 if rows.dtype is torch.float64 else torch.float32
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        for_rows, for_matrix = ctx.needs_input_grad[:2]
        narrow = matrix.to(dtype or matrix.dtype)
        total = torch.zeros((), dtype=wide, device=rows.device)
        row_grads = torch.empty_like(rows) if for_rows else None
        matrix_grad = torch.zeros_like(matrix, dtype=wide) if for_matrix else None
        size = max(1, budget // matrix.shape[0])
        with torch.autocast(device, enabled=False):
            for start in range(0, len(rows), size):
                chunk = rows[start : start + size].to(narrow.dtype)
                target = targets[start : start + size, None]
                logits = (chunk @ narrow.T).to(wide)
                logits -= logits.logsumexp(dim=1, keepdim=True)
                total -= logits.gather(1, target).sum()
                if row_grads is None and matrix_grad is None:
                    continue
                # The gradient by the logits: probabilities, less one at the target.
                ones = torch.full_like(target, -1, dtype=wide)
                gradient = logits.exp_().scatter_add_(1, target, ones).to(narrow.dtype)
                if row_grads is not None:
                    row_grads[start : start + size] = gradient @ narrow
                if matrix_grad is not None:
                    matrix_grad += gradient.T @ chunk
        ctx.save_for_backward(row_grads, matrix_grad)
        ctx.matrix_dtype = matrix.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        row_grads, matrix_grad = ctx.saved_tensors
        if row_grads is not None:
            row_grads = row_grads * scale.to(row_grads.dtype)
        if matrix_grad is not None:
            matrix_grad = (matrix_grad * scale).to(ctx.matrix_dtype)
        return row_grads, matrix_grad, None, None
