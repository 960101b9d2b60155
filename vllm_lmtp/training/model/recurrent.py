"""The recurrent term: what the newest hidden state and all tokens since say about the next.

A Markov term with a memory. It starts from the hidden state that the model's own LM head has just
read, which knows more of the place after next than a head that reads one row further back, and it
takes up every token that is drafted (the idea of Recurrent Drafter, arXiv 2403.09919, at the rank
of a Markov term and beside leap heads instead of alone).

Its step has the form of the heads' residual block. With the carry that it starts with, zero, it is
a Markov term, so that it can go on from one.

Notation: D draft vocabulary, H hidden size, r rank, n heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from vllm_lmtp.training.data.draft_vocab import DraftVocab
from vllm_lmtp.training.model.markov import MarkovTerm


class RecurrentTerm(MarkovTerm):
    """start [r, H] and carry [r, 2r], beside the matrices of a Markov term."""

    def __init__(self, vocab: DraftVocab, rank: int, n_head: int | None, hidden_size: int) -> None:
        """n_head: None for one output matrix that all heads share."""
        super().__init__(vocab, rank, n_head)
        self.start = nn.Parameter(nn.init.xavier_uniform_(self.embed.new_empty(rank, hidden_size)))
        self.carry = nn.Parameter(self.embed.new_zeros(rank, 2 * rank))

    def begin(self, newest: Tensor) -> Tensor:
        """The state [..., r] before the first token, from hidden states [..., H]."""
        return linear(newest, self.start)

    def read(self, state: Tensor, previous: Tensor) -> Tensor:
        """The state [..., r] after int64 target tokens [...]."""
        read = self.embedded(previous)
        return read + silu(linear(torch.cat([state, read], dim=-1), self.carry))
