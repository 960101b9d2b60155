"""The draft vocabulary: the tokens that heads can name at all.

A head's output matrix is most of its bytes, and most of a large vocabulary is hardly ever written.
Heads over the most frequent tokens alone cost a fraction; what they leave out can never be
accepted, so the size is chosen by how much of held-out text is covered (the idea of EAGLE-3's
`d2t`, arXiv 2503.01840).

Notation: V target vocabulary, D draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vllm_lmtp.errors import refuse
from vllm_lmtp.training.data.rows import IGNORE

# Vocabulary-parallel layers pad their rows to a multiple of this; whole ones waste none.
MULTIPLE = 64


@dataclass(frozen=True)
class DraftVocab:
    """target_ids: int64 [D], strictly increasing. vocab_size: V."""

    target_ids: Tensor
    vocab_size: int

    def __len__(self) -> int:
        return len(self.target_ids)

    @property
    def d2t(self) -> Tensor:
        """int64 [D] as stored in checkpoints: target id less draft id."""
        return self.target_ids - torch.arange(len(self))

    def draft_ids(self, unknown: int) -> Tensor:
        """int64 [V]: the draft id of each target token, `unknown` for one left out."""
        ids = torch.full((self.vocab_size,), unknown, dtype=torch.int64)
        ids[self.target_ids] = torch.arange(len(self))
        return ids

    def to_labels(self, tokens: Tensor) -> Tensor:
        """Draft ids of int64 target tokens; IGNORE for those left out and where it was IGNORE."""
        known = self.draft_ids(IGNORE).to(tokens.device)
        return torch.where(tokens == IGNORE, IGNORE, known[tokens.clamp(min=0)])


def count_tokens(texts: Iterable[Sequence[int]], vocab_size: int) -> Tensor:
    """int64 [V]: how often each token stands in `texts`.

    Raises:
        LMTPError: a token is outside the vocabulary, so the texts are another model's.
    """
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for text in texts:
        ids = torch.tensor(list(text), dtype=torch.int64)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            raise refuse(
                "dataset",
                "tokens",
                found=f"token {int(ids.max())}",
                expected=f"ids from 0 to {vocab_size - 1}, the model's vocabulary",
                remedy="use a data set that this very model wrote",
            )
        counts += torch.bincount(ids, minlength=vocab_size)
    return counts


def choose(
    train: Tensor,
    held_out: Tensor,
    *,
    size: int | None,
    coverage: float | None,
    always: Sequence[int] = (),
) -> DraftVocab:
    """The most frequent tokens of the training text, as many as asked for.

    Args:
        train, held_out: int64 [V], counts.
        size: D; or None, and then the least D whose share of the held-out tokens is `coverage`.
            Either is rounded up to a multiple of MULTIPLE, and bounded by V.
        always: tokens that belong to it however rare, such as the one that ends a text.

    Raises:
        LMTPError: no size gives that coverage, since held-out tokens are missing in the training.
    """
    vocab_size = len(train)
    order = train.clone()
    order[list(always)] = train.max() + 1
    # Stable, so that equally frequent tokens come in the order of their ids on every machine.
    ranked = order.argsort(descending=True, stable=True)
    if size is None:
        covered = held_out[ranked].cumsum(0).double() / max(1, int(held_out.sum()))
        wanted = 1.0 if coverage is None else coverage
        size = int((covered < wanted - 1e-12).sum()) + 1
        seen = int((order > 0).sum())
        if size > seen:
            raise refuse(
                "training file",
                "draft_vocab.coverage",
                found=wanted,
                expected=f"at most {float(covered[seen - 1]):.4f}: the other held-out tokens "
                "stand nowhere in the training texts",
                remedy="lower it, or distill more text",
            )
    size = min(vocab_size, -(-size // MULTIPLE) * MULTIPLE)
    return DraftVocab(ranked[:size].sort().values, vocab_size)


def coverage_of(vocab: DraftVocab, counts: Tensor) -> float:
    """Share of counted tokens that the vocabulary holds, 0..1."""
    return float(counts[vocab.target_ids].sum() / counts.sum().clamp(min=1))
