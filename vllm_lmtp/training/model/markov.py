"""The Markov term: what the preceding token says about the next, added to a head's logits.

A head guesses a token without knowing the one before it. When the draft is filled left to right
that token is known, and a low-rank bigram term E[p] W^T corrects the head for it.

Notation: D draft vocabulary, r rank, n heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vllm_lmtp.training.data.draft_vocab import DraftVocab


class MarkovTerm(nn.Module):
    """embed [D + 1, r], the last row for tokens outside the draft vocabulary; output [n, D, r]
    or, shared by all heads, [D, r], which starts at zero: an untrained term changes nothing.
    """

    known: Tensor

    def __init__(self, vocab: DraftVocab, rank: int, n_head: int | None) -> None:
        """n_head: None for one output matrix that all heads share."""
        super().__init__()
        size = len(vocab)
        self.embed = nn.Parameter(torch.randn(size + 1, rank) / rank**0.5)
        shape = (size, rank) if n_head is None else (n_head, size, rank)
        self.output = nn.Parameter(torch.zeros(shape))
        self.register_buffer("known", vocab.draft_ids(unknown=size), persistent=False)

    def grow_from(self, other: MarkovTerm) -> None:
        """Begin as a Markov term of the same tokens and at most this rank, with matrices for as
        many heads: what the state has more adds nothing until it is trained."""
        rank = other.embed.shape[1]
        with torch.no_grad():
            self.embed[:, :rank] = other.embed
            self.output.zero_()
            self.output[..., :rank] = other.output

    def embedded(self, previous: Tensor) -> Tensor:
        """Embeddings [N, r] of int64 target tokens [N]."""
        return self.embed[self.known[previous]]

    def begin(self, newest: Tensor) -> Tensor:
        """The state [N, r] before the first token, from hidden states [N, H]: nothing is known."""
        return newest.new_zeros(len(newest), self.embed.shape[1])

    def read(self, state: Tensor, previous: Tensor) -> Tensor:
        """The state [N, r] after int64 target tokens [N]: of those before the last none is kept."""
        return self.embedded(previous)

    def output_of(self, head: int) -> Tensor:
        """The output matrix [D, r] of a head."""
        return self.output if self.output.dim() == 2 else self.output[head]
