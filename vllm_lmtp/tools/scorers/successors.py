"""Counts which tokens follow which, and keeps for each token its most frequent successors.

Pure counting on token ids. With c(p, x) how often x follows p, c(p) = sum over x, p(x) the share of
x among all successors and a pseudo-counts of that unigram,

    p(x | p) = (c(p, x) + a p(x)) / (c(p) + a),

and the ratio kept for x is log p(x | p) - log p(x) less the same for a token that never follows p,
which leaves log(1 + c(p, x) / (a p(x))). That difference is one number for each p and so changes no
choice; it makes the ratio of every token that is not in the table 0, as it is served.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

BLOCK = 2**22  # pairs counted at a time


@dataclass(frozen=True)
class Successors:
    """A successor table.

    ids: [V, K] int32, of the heads' vocabulary, the most frequent first, -1 where there are fewer.
    ratios: [V, K] float16. pairs: how many transitions were counted.
    """

    ids: torch.Tensor
    ratios: torch.Tensor
    pairs: int


@dataclass(frozen=True)
class Pairs:
    """How often each pair of tokens occurs.

    keys: [N] int64, p * V + x, in order. counts: [N] int64. vocab_size: V.
    """

    keys: torch.Tensor
    counts: torch.Tensor
    vocab_size: int

    @property
    def total(self) -> int:
        """How many transitions were counted."""
        return int(self.counts.sum())

    def and_those_of(self, passages: Iterable[torch.Tensor]) -> Pairs:
        """These and the transitions of more passages, [L] int64 token ids each."""
        keys, counts = _count(passages, self.vocab_size, self.keys, self.counts)
        return Pairs(keys, counts, self.vocab_size)


def no_pairs(vocab_size: int) -> Pairs:
    """What has been counted before anything is."""
    none = torch.empty(0, dtype=torch.int64)
    return Pairs(none, none, vocab_size)


def count_successors(
    passages: Iterable[torch.Tensor],
    vocab_size: int,
    drafted: torch.Tensor | None,
    size: int,
    pseudo_counts: float,
) -> Successors:
    """Count the transitions of some passages.

    Args:
        passages: [L] int64 token ids each, within 0..vocab_size-1.
        vocab_size: V.
        drafted: [D] int64 target ids that can be drafted, in order; None for all.
        size: K. pseudo_counts: a, above 0.
    """
    pairs = no_pairs(vocab_size).and_those_of(passages)
    return best_successors(pairs, drafted, size, pseudo_counts)


def best_successors(
    pairs: Pairs, drafted: torch.Tensor | None, size: int, pseudo_counts: float
) -> Successors:
    """The table of what was counted; a smaller one of the same is its first columns."""
    vocab_size, counts = pairs.vocab_size, pairs.counts
    before, after = pairs.keys // vocab_size, pairs.keys % vocab_size
    share = torch.zeros(vocab_size, dtype=torch.float64)
    share.index_add_(0, after, counts.double())
    share /= max(pairs.total, 1)
    index = _index(vocab_size, drafted)
    known = index[after] >= 0
    before, after, counts = before[known], after[known], counts[known]
    # By preceding token, then by count, then by id: each sort keeps the order of the one before.
    order = counts.argsort(descending=True, stable=True)
    order = order[before[order].argsort(stable=True)]
    before, after, counts = before[order], after[order], counts[order]
    starts = torch.searchsorted(before, before)
    place = torch.arange(len(before)) - starts
    kept = place < size
    before, after, counts, place = before[kept], after[kept], counts[kept], place[kept]
    ids = torch.full((vocab_size, size), -1, dtype=torch.int32)
    ratios = torch.zeros(vocab_size, size, dtype=torch.float16)
    ids[before, place] = index[after].int()
    ratios[before, place] = torch.log1p(counts / (pseudo_counts * share[after])).half()
    return Successors(ids, ratios, pairs.total)


def _count(
    passages: Iterable[torch.Tensor], vocab_size: int, keys: torch.Tensor, counts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair that occurs, as p * V + x in order, and how often, beside those counted before."""
    waiting: list[torch.Tensor] = []
    held = 0
    for tokens in passages:
        waiting.append(tokens[:-1] * vocab_size + tokens[1:])
        held += len(waiting[-1])
        if held >= BLOCK:
            keys, counts = _joined(keys, counts, waiting)
            waiting, held = [], 0
    return _joined(keys, counts, waiting)


def _joined(
    keys: torch.Tensor, counts: torch.Tensor, new: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    fresh: Any = torch.cat([keys[:0], *new])  # torch does not type `unique`
    found, times = fresh.unique(return_counts=True)
    both: Any = torch.cat([keys, found])
    together, place = both.unique(return_inverse=True)
    total = torch.zeros(len(together), dtype=torch.int64)
    return together, total.index_add_(0, place, torch.cat([counts, times]))


def _index(vocab_size: int, drafted: torch.Tensor | None) -> torch.Tensor:
    """[V] int64, the draft id of every target token, -1 where it cannot be drafted."""
    if drafted is None:
        return torch.arange(vocab_size)
    index = torch.full((vocab_size,), -1)
    index[drafted] = torch.arange(len(drafted))
    return index
