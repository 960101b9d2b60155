"""The losses: a mean cross-entropy for every head at its own offset, and the sums of both stages.

Head i at position t is trained on the token at t + 1 + k(i + 1) (arXiv 2505.17505, section 3).
Stage 1 is the sum over the heads; stage 2 is the next-token loss of the backbone's own output
matrix and a share of that sum. Gradients flow into the hidden states where they ask for them.

With a draft vocabulary, tokens that it leaves out teach the heads nothing. With a Markov term, its
logits are added to the head's, and the token before the predicted one is the true one. With a
recurrent term the loss is over the places of drafts (places.py) instead of the heads.

Where several processes train, every mean is over the tokens of all of them, so that it does not
matter how the rows of a step are dealt out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.data.draft_vocab import DraftVocab
from vllm_lmtp.training.data.rows import IGNORE
from vllm_lmtp.training.devices import summed, world_size
from vllm_lmtp.training.model.cross_entropy import cross_entropy
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.markov import MarkovTerm
from vllm_lmtp.training.model.places import places
from vllm_lmtp.training.model.recurrent import RecurrentTerm

NEXT_TOKEN = 1


@dataclass(frozen=True)
class Extras:
    """What heads may have beside themselves.

    vocab: the draft vocabulary; None where it is the target's. term: what is added to the logits.
    tokens: int64 [B, T'], which a term needs: the labels without a gap. decay: what each place of a
    draft counts less than the one before it, for a recurrent term.
    """

    vocab: DraftVocab | None = None
    term: MarkovTerm | None = None
    tokens: Tensor | None = None
    decay: float = 1.0


NONE = Extras()


def stage1_loss(
    heads: LeapHeads,
    hidden: Tensor,
    labels: Tensor,
    stride: int,
    logits_budget: int,
    extras: Extras = NONE,
) -> tuple[Tensor, Tensor]:
    """Loss of all heads on one batch.

    Args:
        hidden: [B, T, H] final-norm hidden states.
        labels: int64 [B, T'], T' >= T: the token at each position itself, IGNORE where it is not
            to be learnt.
        logits_budget: most logits (rows x vocabulary) held at once.

    Returns:
        The loss, a float32 scalar (float64 for float64 hidden states), and the loss of each head
        [n], or of each place with a recurrent term, detached. One without a target adds zero.
    """
    parts = _parts(heads, hidden, labels, stride, extras)
    losses = _mean_losses(parts, hidden, logits_budget)
    counts = extras.decay ** torch.arange(len(losses), device=losses.device)
    return (losses * counts).sum(), _shown(losses)


def stage2_loss(
    lm_head: nn.Linear,
    heads: LeapHeads,
    hidden: Tensor,
    labels: Tensor,
    stride: int,
    head_weight: float,
    logits_budget: int,
    extras: Extras = NONE,
) -> tuple[Tensor, Tensor]:
    """The next-token loss plus `head_weight` times the stage-1 loss, on one batch.

    Args:
        lm_head: the backbone's output matrix, [..., H] to [..., V]. The rest as in `stage1_loss`.

    Returns:
        The loss, and [1 + n] detached: the next-token loss and the loss of each head.
    """
    rows, next_tokens, _ = pairs(hidden, labels, NEXT_TOKEN)
    next_token = _Part([(rows, lm_head.weight)], next_tokens)
    parts = [next_token, *_parts(heads, hidden, labels, stride, extras)]
    losses = _mean_losses(parts, hidden, logits_budget)
    return losses[0] + head_weight * losses[1:].sum(), _shown(losses)


def pairs(
    hidden: Tensor, labels: Tensor, offset: int, tokens: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that have a label `offset` later, and these labels.

    Args:
        hidden: [B, T, H]. labels: int64 [B, T'], IGNORE where there is no token to learn.
        tokens: int64 [B, T'], where the token before each label is wanted.

    Returns:
        rows [N, H], labels [N] and the tokens before them [N], or [0] without `tokens`; N is 0
        when every text is shorter than the offset.
    """
    ahead = labels[:, offset : offset + hidden.shape[1]]
    kept = ahead != IGNORE
    rows = hidden[:, : ahead.shape[1]][kept]
    if tokens is None:
        return rows, ahead[kept], ahead.new_empty(0)
    return rows, ahead[kept], tokens[:, offset - 1 : offset - 1 + ahead.shape[1]][kept]


@dataclass(frozen=True)
class _Part:
    """One mean of the loss: what `cross_entropy` takes."""

    products: Sequence[tuple[Tensor, Tensor]]
    labels: Tensor


def _parts(
    heads: LeapHeads, hidden: Tensor, labels: Tensor, stride: int, extras: Extras
) -> list[_Part]:
    """A part for each head, or for each place of a draft with a recurrent term."""
    term = extras.term
    if extras.vocab is not None:
        labels = extras.vocab.to_labels(labels)
    if isinstance(term, RecurrentTerm):
        assert extras.tokens is not None
        return [
            _Part(
                [(p.rows, heads[p.head].lm_head.weight), (p.state, term.output_of(p.head))],
                p.labels,
            )
            for p in places(heads, term, stride, hidden, labels, extras.tokens)
        ]
    schedule, parts = LeapSchedule(len(heads), stride), []
    for i in range(len(heads)):
        offset = schedule.offset_of_head(i)
        rows, truth, previous = pairs(
            hidden, labels, offset, None if term is None else extras.tokens
        )
        products = [(heads[i].trunk(rows), heads[i].lm_head.weight)]
        if term is not None:
            products.append((term.embedded(previous), term.output_of(i)))
        parts.append(_Part(products, truth))
    return parts


def _mean_losses(parts: Sequence[_Part], hidden: Tensor, logits_budget: int) -> Tensor:
    """The mean cross-entropy of each part, [len(parts)].

    Means over the tokens of all training processes, times the number of processes: their average,
    which is what the gradients of several processes come to, is the true mean.
    """
    counts = torch.tensor([len(part.labels) for part in parts], device=hidden.device)
    wide = torch.float64 if hidden.dtype is torch.float64 else torch.float32
    shares = world_size() / summed(counts).clamp(min=1).to(wide)
    sums = [cross_entropy(part.products, part.labels, logits_budget) for part in parts]
    return torch.stack([s.to(wide) for s in sums]) * shares


def _shown(losses: Tensor) -> Tensor:
    return summed(losses) / world_size()
