"""The losses over a large vocabulary without ever holding its logits.

The gradients are made in the forward pass, chunk by chunk, while the logits of the chunk exist:
three matrix products in all, where making the logits again in the backward pass takes four. No
product is made for what is not trained.

Notation: N rows of hidden states, V vocabulary; H_p the size that product p sums over; q the
distribution that is trained, p the teacher's, alpha their overlap, sum of min(p, q).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vllm_lmtp.training.settings.loss import CROSS_ENTROPY, LossConfig

NO_TARGET = -1
"""A target that adds nothing to `ce`."""
LK_DECAY = 3.0
"""lk_hybrid weighs kl_div by exp(-3 alpha) and tv by the rest (arXiv 2602.23881, section 4)."""


@dataclass(frozen=True)
class Teacher:
    """What soft losses learn from.

    rows: [N, H_t] and matrix: [V, H_t], whose product are the teacher's logits. known: bool [N],
    whether it says anything of a row. best: whether its best token is the target of `ce`.
    """

    rows: Tensor
    matrix: Tensor
    known: Tensor
    best: bool = False


def chunked_loss(
    products: Sequence[tuple[Tensor, Tensor]],
    targets: Tensor,
    logits_budget: int,
    config: LossConfig = CROSS_ENTROPY,
    teacher: Teacher | None = None,
) -> Tensor:
    """The summed loss of the logits that are the sum of all `rows @ matrix.T`.

    Under autocast the products are made in its dtype, else in that of the first matrix. The softmax
    is computed in float32 in any case, or in float64 for float64; with gradients it is stored, and
    cross-entropy read off it, in the products' dtype.

    Args:
        products: rows [N, H_p] and matrix [V, H_p] of each.
        targets: int64 [N], in 0..V-1, or NO_TARGET.
        logits_budget: most logits held at once.
        teacher: needed for all losses but `ce`, and for that where its best token is the target.

    Returns:
        A scalar, 0 for no rows. It can be differentiated once, and not by the teacher.
    """
    apply = cast(Callable[..., Tensor], _ChunkedLoss.apply)
    parts = (part for product in products for part in product)
    return apply(targets, logits_budget, config, teacher, *parts)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        targets: Tensor,
        budget: int,
        config: LossConfig,
        teacher: Teacher | None,
        *parts: Tensor,
    ) -> Tensor:
        all_rows, matrices = parts[::2], parts[1::2]
        first = all_rows[0]
        device = first.device.type
        wide = torch.float64 if first.dtype is torch.float64 else torch.float32
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        dtype = autocast or matrices[0].dtype
        wanted = ctx.needs_input_grad[4:]
        narrow = [matrix.to(dtype) for matrix in matrices]
        taught_by = None if teacher is None else teacher.matrix.to(dtype)
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
                rows = [r[chunk].to(dtype) for r in all_rows]
                logits = rows[0] @ narrow[0].T
                for r, m in zip(rows[1:], narrow[1:], strict=True):
                    logits = torch.addmm(logits, r, m.T)
                target, taught = targets[chunk, None], None
                if teacher is not None:
                    assert taught_by is not None
                    known = teacher.known[chunk, None]
                    taught = teacher.rows[chunk].to(dtype) @ taught_by.T
                    if teacher.best:
                        best = taught.argmax(dim=1, keepdim=True)
                        target = torch.where(known, best, NO_TARGET)
                if taught is None or not config.soft:
                    loss, gradient = _cross_entropy(logits, target, wide)
                    loss, gradient = config.ce * loss, gradient.mul_(config.ce)
                else:
                    loss, gradient = _soft(logits, taught, target, known, config)
                total += loss.sum()
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
        return (None, None, None, None, *scaled)


def _cross_entropy(logits: Tensor, target: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Loss [N, 1] and its gradient [N, V] by the logits."""
    known = target >= 0
    target = target.clamp(min=0)
    # Computed in float32, whatever it is stored in; a smaller p has no gradient left.
    gradient = logits.softmax(dim=1)
    chosen = gradient.gather(1, target).to(wide)
    loss = -chosen.clamp(min=torch.finfo(wide).tiny).log()
    # The gradient by the logits: probabilities, and at the target less all the others, which
    # keeps its digits where p - 1 would lose them.
    others = gradient.scatter_(1, target, 0).sum(dim=1, keepdim=True, dtype=wide)
    gradient.scatter_(1, target, -others.to(gradient.dtype))
    return loss * known, gradient.mul_(known)


def _soft(
    logits: Tensor, taught: Tensor, target: Tensor, known: Tensor, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """The same with a teacher, whose logits are `taught`; known: bool [N, 1].

    Passes over [N, V] are what this costs, so only what has a weight is made, in place.
    """
    wide = torch.float64 if logits.dtype is torch.float64 else torch.float32
    log_q, log_p = logits.to(wide).log_softmax(dim=1), taught.to(wide).log_softmax(dim=1)
    p = log_p.exp()
    kl: Tensor | float = config.kl_div
    loss, bent = torch.zeros_like(log_q[:, :1]), None
    if config.tv or config.lk_hybrid:
        q = log_q.exp()
        overlap = torch.minimum(p, q).sum(dim=1, keepdim=True)
        blend = (-LK_DECAY * overlap).exp()  # held fast: no gradient flows through it
        kl = kl + config.lk_hybrid * blend
        tv = known * (config.tv + config.lk_hybrid * (1 - blend))
        loss = tv * (1 - overlap)
        # Of 1 - alpha: alpha grows by q where q is the smaller of both.
        smaller = q * (q < p)
        gained = smaller.sum(dim=1, keepdim=True)
        bent = q.mul_(tv * gained).sub_(smaller.mul_(tv))
    kl, hard = kl * known, config.ce * (known & (target >= 0))
    target = target.clamp(min=0)
    loss -= hard * log_q.gather(1, target)
    loss += kl * log_p.sub_(log_q).mul_(p).sum(dim=1, keepdim=True)
    gradient = log_q.exp_().mul_(kl + hard).sub_(p.mul_(kl))
    gradient.scatter_add_(1, target, -hard.to(wide))
    if bent is not None:
        gradient += bent
    return loss, gradient.to(logits.dtype)
