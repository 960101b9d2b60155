"""The losses: a mean cross-entropy for every head at its own offset, and the sums of both stages.

Head i at position t is trained on the token at t + 1 + k(i + 1) (arXiv 2505.17505, section 3).
Stage 1 is the sum over the heads; stage 2 is the next-token loss of the backbone's own output
matrix and a share of that sum. Gradients flow into the hidden states where they ask for them.

The logits of a large vocabulary dwarf everything else in memory, so they are made head by head and
chunk by chunk, and made again in the backward pass instead of being kept.

Where several processes train, every mean is over the tokens of all of them, so that it does not
matter how the rows of a step are dealt out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vllm_lmtp.leap import LeapSchedule
from vllm_lmtp.training.devices import summed, world_size
from vllm_lmtp.training.heads import LeapHeads
from vllm_lmtp.training.rows import IGNORE

NEXT_TOKEN = 1


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
        hidden: [B, T, H] final-norm hidden states.
        labels: int64 [B, T], the token at each position itself, IGNORE at padding.
        logits_budget: most logits (rows x vocabulary) held at once.

    Returns:
        The loss, a float32 scalar (float64 for float64 hidden states), and the loss of each head
        [n], detached. A head without a single target adds zero.
    """
    losses = mean_losses(_readers(heads, stride), hidden, labels, logits_budget)
    return losses.sum(), _shown(losses)


def stage2_loss(
    lm_head: nn.Module,
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
    readers = [(lm_head, NEXT_TOKEN), *_readers(heads, stride)]
    losses = mean_losses(readers, hidden, labels, logits_budget)
    return losses[0] + head_weight * losses[1:].sum(), _shown(losses)


def mean_losses(
    readers: Sequence[tuple[nn.Module, int]], hidden: Tensor, labels: Tensor, logits_budget: int
) -> Tensor:
    """The mean cross-entropy of each reader, [len(readers)].

    Args:
        readers: modules from [N, H] to logits [N, V], each with the offset it predicts.

    Returns:
        Means over the tokens of all training processes, times the number of processes: their
        average, which is what the gradients of several processes come to, is the true mean.
    """
    chosen = [pairs(hidden, labels, offset) for _, offset in readers]
    counts = torch.tensor([len(targets) for _, targets in chosen], device=hidden.device)
    shares = world_size() / summed(counts).clamp(min=1).to(_accumulated(hidden))
    sums = [
        summed_loss(module, rows, targets, logits_budget)
        for (module, _), (rows, targets) in zip(readers, chosen, strict=True)
    ]
    return torch.stack(sums) * shares


def summed_loss(module: nn.Module, rows: Tensor, targets: Tensor, logits_budget: int) -> Tensor:
    """The summed cross-entropy of rows [N, H] of this process; `logits_budget` logits at once."""
    vocab_size: int = getattr(module, "lm_head", module).out_features
    chunk = max(1, logits_budget // vocab_size)
    total = torch.zeros((), dtype=_accumulated(rows), device=rows.device)
    # Without rows one empty chunk still ties the result to the parameters: several processes wait
    # for each other's gradients of all of them.
    for start in range(0, max(1, len(rows)), chunk):
        part = checkpoint(
            _chunk_loss,
            module,
            rows[start : start + chunk],
            targets[start : start + chunk],
            use_reentrant=False,
        )
        total = total + cast(Tensor, part)
    return total


def _readers(heads: LeapHeads, stride: int) -> list[tuple[nn.Module, int]]:
    schedule = LeapSchedule(len(heads), stride)
    return [(heads[i], schedule.offset_of_head(i)) for i in range(len(heads))]


def _shown(losses: Tensor) -> Tensor:
    return summed(losses) / world_size()


def _accumulated(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype is torch.float64 else torch.float32


def _chunk_loss(module: nn.Module, rows: Tensor, targets: Tensor) -> Tensor:
    logits = module(rows)
    if logits.dtype is not torch.float64:
        logits = logits.float()
    return functional.cross_entropy(logits, targets, reduction="sum")
