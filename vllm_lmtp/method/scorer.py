"""The scorer: makes the places of a draft agree with each other.

Each head guesses its token without knowing the one before it, yet a draft is worth only its
unbroken prefix. With a scorer the places are filled left to right: what the preceding token says
about the next is added to the head's logits before the best is taken, and the first preceding token
is the one just sampled. Three kinds (docs/scorer.md): a low-rank *Markov term*, trained, which
knows the preceding token; a *recurrent term*, trained, which knows all tokens drafted so far and
the newest hidden state; and a sparse *successor table*, counted.

Pure torch, static shapes, nothing read back. Under tensor parallelism a scorer adds to its rank's
shard of the vocabulary only; the best of all shards is the heads' business.

Notation: R requests, V target vocabulary, D the heads' vocabulary (V where they draft all of it),
S rows of this rank's shard with its padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn

AddProduct = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""([R, S] float32 logits, which may be overwritten, what is known [R, r]) -> [R, S]."""


class Scorer(nn.Module, ABC):
    """What backward decoding asks of a scorer: `begin` once a draft, then for every place `read`
    of the token before it, and `add`.
    """

    def begin(self, newest: torch.Tensor) -> torch.Tensor:
        """What is known before the first token is read; most kinds need nothing.

        Args:
            newest: [R, H], the newest hidden state of each request.

        Returns:
            [R, ...], for `read`.
        """
        return newest

    @abstractmethod
    def read(self, known: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """What is known when one more token has been read.

        Args:
            known: what `begin` or the `read` before this one returned.
            previous: [R] int64 target tokens; ids outside 0..V-1 count as some token.

        Returns:
            [R, ...], for `add`, and for the next `read`.
        """

    @abstractmethod
    def add(self, logits: torch.Tensor, head: int, known: torch.Tensor) -> torch.Tensor:
        """A head's logits and what is known of the tokens before the place they are for.

        Args:
            logits: [R, S] float32, this rank's shard; may be overwritten.
            head: the head they come from.
            known: what `read` returned.

        Returns:
            [R, S] float32. Only differences within a row mean anything.
        """


class MarkovScorer(Scorer):
    """Adds embed[u(p)] . output[x] for the preceding token p.

    `products`, one or one for each head, add it in another way where a device knows a faster one.

    Args:
        embed: [D + 1, r]; the last row is for tokens outside the heads' vocabulary.
        output: [S, r], or [n, S, r] with one for each head; rows of padding are zero.
        row_of_token: [V] int64, u(p) of every target token p.
    """

    embed: torch.Tensor
    output: torch.Tensor
    row_of_token: torch.Tensor

    def __init__(
        self, embed: torch.Tensor, output: torch.Tensor, row_of_token: torch.Tensor
    ) -> None:
        super().__init__()
        self.products: Sequence[AddProduct] = ()
        for name, value in (("embed", embed), ("output", output), ("row_of_token", row_of_token)):
            self.register_buffer(name, value, persistent=False)

    def read(self, known: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """As `Scorer.read`: [R, r]."""
        return self.embed[_look_up(self.row_of_token, previous)]

    def add(self, logits: torch.Tensor, head: int, known: torch.Tensor) -> torch.Tensor:
        """As `Scorer.add`."""
        if self.products:
            return self.products[head if len(self.products) > 1 else 0](logits, known)
        output = self.output if self.output.dim() == 2 else self.output[head]
        return logits + nn.functional.linear(known, output).float()


class RecurrentScorer(MarkovScorer):
    """Adds s . output[x], where s starts as start h for the newest hidden state h and becomes
    e + SiLU(carry [s, e]) with every token p, e = embed[u(p)]. Without carry it is a Markov term.

    Args:
        start: [r, H]. carry: [r, 2r]. The rest as in `MarkovScorer`.
    """

    start: torch.Tensor
    carry: torch.Tensor

    def __init__(
        self,
        start: torch.Tensor,
        carry: torch.Tensor,
        embed: torch.Tensor,
        output: torch.Tensor,
        row_of_token: torch.Tensor,
    ) -> None:
        super().__init__(embed, output, row_of_token)
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("carry", carry, persistent=False)

    def begin(self, newest: torch.Tensor) -> torch.Tensor:
        """As `Scorer.begin`: [R, r]."""
        return nn.functional.linear(newest.to(self.start.dtype), self.start)

    def read(self, known: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """As `Scorer.read`: [R, r]."""
        read = super().read(known, previous)
        both = torch.cat([known, read], dim=-1)
        return read + nn.functional.silu(nn.functional.linear(both, self.carry))


class SuccessorTable(Scorer):
    """Adds weight * ratio to the logits of the successors of the preceding token.

    Args:
        places: [rows, K] int32 in 0..S-1, where in this rank's shard each successor stands.
        ratios: [rows, K] float16, 0 for successors of other shards and for padding.
        row_of_token: [V] int64, the row of every target token.
        weight: what the ratios count.
    """

    places: torch.Tensor
    ratios: torch.Tensor
    row_of_token: torch.Tensor

    def __init__(
        self,
        places: torch.Tensor,
        ratios: torch.Tensor,
        row_of_token: torch.Tensor,
        weight: float,
    ) -> None:
        super().__init__()
        self.weight = weight
        for name, value in (("places", places), ("ratios", ratios), ("row_of_token", row_of_token)):
            self.register_buffer(name, value, persistent=False)

    def read(self, known: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """As `Scorer.read`: [R] int64, rows of the table."""
        return _look_up(self.row_of_token, previous)

    def add(self, logits: torch.Tensor, head: int, known: torch.Tensor) -> torch.Tensor:
        """As `Scorer.add`. The logits' log-sum-exp, the same for a whole row, is left out."""
        ratios = self.ratios[known].float() * self.weight
        return logits.scatter_add_(1, self.places[known].long(), ratios)


def rows_of_tokens(vocab_size: int, drafted: torch.Tensor | None) -> torch.Tensor:
    """u(p) of every target token: its id in the heads' vocabulary, or D where it has none.

    Args:
        drafted: [D] int64 target ids of the heads' vocabulary; None where that is the target's.

    Returns:
        [V] int64.
    """
    if drafted is None:
        return torch.arange(vocab_size)
    rows = torch.full((vocab_size,), len(drafted))
    rows[drafted] = torch.arange(len(drafted))
    return rows


def local_successors(
    ids: torch.Tensor, ratios: torch.Tensor, start: int, end: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of a successor table that one rank adds, in the shapes of the whole.

    Args:
        ids: [rows, K] int32, -1 for padding. ratios: [rows, K] float16.
        start, end: the rank's shard of the heads' vocabulary.

    Returns:
        `places` and `ratios` of `SuccessorTable`: what is not here adds nothing to place 0.
    """
    here = (ids >= start) & (ids < end)
    return torch.where(here, ids - start, 0), torch.where(here, ratios, 0)


def _look_up(row_of_token: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return row_of_token[tokens.clamp(0, len(row_of_token) - 1)]
