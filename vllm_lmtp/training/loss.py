"""The stage-1 loss: the sum over heads of the mean cross-entropy at the head's own offset.

Head i at position t is trained on the token at t + 1 + k(i + 1) (arXiv 2505.17505, section 3);
the backbone's own next-token loss is not part of it.

The logits of a large vocabulary dwarf everything else in memory, so they are made head by head and
chunk by chunk, and made again in the backward pass instead of being kept.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vllm_lmtp.leap import LeapSchedule
from vllm_lmtp.training.heads import LeapHead, LeapHeads
from vllm_lmtp.training.rows import IGNORE


def pairs(hidden: Tensor, labels: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """The rows that have a token `offset` later, and these tokens.

    Args:
        hidden: [B, T, H]. labels: int64 [B, T], IGNORE where there is no token to learn.

    Returns:
        ([N, H], [N]); N is 0 when every text is shorter than the offset.
    """
    targets = labels[:, offset:]
    kept = targets != IGNORE
    return hidden[:, : targets.shape[1]][kept], targets[kept]


def stage1_loss(
    heads: LeapHeads, hidden: Tensor, labels: Tensor, stride: int, logits_budget: int
) -> tuple[Tensor, Tensor]:
    """Loss of all heads on one batch.

    Args:
        hidden: [B, T, H] final-norm hidden states; no gradient flows into them.
        labels: int64 [B, T], the token at each position itself, IGNORE at padding.
        logits_budget: most logits (rows x vocabulary) held at once.

    Returns:
        The loss, a float32 scalar (float64 for float64 heads), and the loss of each head [n],
        detached. A head without a single target adds zero.
    """
    schedule = LeapSchedule(len(heads), stride)
    losses = []
    for index in range(len(heads)):
        rows, targets = pairs(hidden, labels, schedule.offset_of_head(index))
        losses.append(_head_loss(heads[index], rows, targets, logits_budget))
    stacked = torch.stack(losses)
    return stacked.sum(), stacked.detach()


def _head_loss(head: LeapHead, rows: Tensor, targets: Tensor, logits_budget: int) -> Tensor:
    chunk = max(1, logits_budget // head.lm_head.out_features)
    # The empty sum keeps the result attached to the parameters when there are no targets.
    total = head.lm_head.weight.sum() * 0
    if total.dtype not in (torch.float32, torch.float64):
        total = total.float()
    for start in range(0, len(rows), chunk):
        part = checkpoint(
            _chunk_loss,
            head,
            rows[start : start + chunk],
            targets[start : start + chunk],
            use_reentrant=False,
        )
        total = total + cast(Tensor, part)
    return total / max(1, len(rows))


def _chunk_loss(head: LeapHead, rows: Tensor, targets: Tensor) -> Tensor:
    logits = head(rows)
    if logits.dtype is not torch.float64:
        logits = logits.float()
    return functional.cross_entropy(logits, targets, reduction="sum")
