"""The losses: a mean cross-entropy for every head at its own offset, and the sums of both stages.

Head i at position t is trained on the token at t + 1 + k(i + 1) (arXiv 2505.17505, section 3).
Stage 1 is the sum over the heads; stage 2 is the next-token loss of the backbone's own output
matrix and a share of that sum. Gradients flow into the hidden states where they ask for them.

Where several processes train, every mean is over the tokens of all of them, so that it does not
matter how the rows of a step are dealt out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.data.rows import IGNORE
from vllm_lmtp.training.devices import summed, world_size
from vllm_lmtp.training.model.chunked_loss import chunked_loss
from vllm_lmtp.training.model.heads import LeapHeads

NEXT_TOKEN = 1


def stage1_loss(
    heads: LeapHeads,
    hidden: Tensor,
    labels: Tensor,
    stride: int,
    logits_budget: int,
) -> tuple[Tensor, Tensor]:
    """Loss of all heads on one batch.

    Args:
        hidden: [B, T, H] final-norm hidden states.
        labels: int64 [B, T'], T' >= T: the token at each position itself, IGNORE where it is not
            to be learnt.
        logits_budget: most logits (rows x vocabulary) held at once.

    Returns:
        The loss, a float32 scalar (float64 for float64 hidden states), and the loss of each head
        [n], detached. One without a target adds zero.
    """
    losses = _mean_losses(_parts(heads, hidden, labels, stride), hidden, logits_budget)
    return losses.sum(), shown(losses)


def stage2_loss(
    lm_head: nn.Linear,
    heads: LeapHeads,
    hidden: Tensor,
    labels: Tensor,
    stride: int,
    head_weight: float,
    logits_budget: int,
) -> tuple[Tensor, Tensor]:
    """The next-token loss plus `head_weight` times the stage-1 loss, on one batch.

    Args:
        lm_head: the backbone's output matrix, [..., H] to [..., V]. The rest as in `stage1_loss`.

    Returns:
        The loss, and [1 + n] detached: the next-token loss and the loss of each head.
    """
    next_token = _Part(lm_head.weight, *pairs(hidden, labels, NEXT_TOKEN))
    parts = [next_token, *_parts(heads, hidden, labels, stride)]
    losses = _mean_losses(parts, hidden, logits_budget)
    return losses[0] + head_weight * losses[1:].sum(), shown(losses)


def pairs(hidden: Tensor, labels: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """The rows that have a label `offset` later, and these labels.

    Args:
        hidden: [B, T, H]. labels: int64 [B, T'], IGNORE where there is no token to learn.

    Returns:
        rows [N, H] and labels [N]; N is 0 when every text is shorter than the offset.
    """
    ahead = labels[:, offset : offset + hidden.shape[1]]
    kept = ahead != IGNORE
    return hidden[:, : ahead.shape[1]][kept], ahead[kept]


def mean_of(sums: Sequence[Tensor], counts: Sequence[Tensor]) -> Tensor:
    """Summed losses as means over the tokens of all training processes, [len(sums)].

    Times the number of processes: their average, which is what the gradients of several processes
    come to, is the true mean. A count of none gives zero.
    """
    losses = torch.stack(list(sums))
    return losses * world_size() / summed(torch.stack(list(counts))).clamp(min=1).to(losses.dtype)


def shown(losses: Tensor) -> Tensor:
    """The losses of all processes, to be looked at."""
    return summed(losses) / world_size()


@dataclass(frozen=True)
class _Part:
    """One mean of the loss: matrix [V, H], rows [N, H] and labels int64 [N]."""

    matrix: Tensor
    rows: Tensor
    labels: Tensor


def _parts(heads: LeapHeads, hidden: Tensor, labels: Tensor, stride: int) -> list[_Part]:
    """A part for each head."""
    schedule, parts = LeapSchedule(len(heads), stride), []
    for i in range(len(heads)):
        rows, truth = pairs(hidden, labels, schedule.offset_of_head(i))
        parts.append(_Part(heads[i].lm_head.weight, heads[i].trunk(rows), truth))
    return parts


def _mean_losses(parts: Sequence[_Part], hidden: Tensor, logits_budget: int) -> Tensor:
    """The mean cross-entropy of each part, [len(parts)]."""
    counts = [torch.tensor(len(part.labels), device=hidden.device) for part in parts]
    wide = torch.float64 if hidden.dtype is torch.float64 else torch.float32
    sums = [chunked_loss([(p.rows, p.matrix)], p.labels, logits_budget).to(wide) for p in parts]
    return mean_of(sums, counts)
