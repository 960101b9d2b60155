"""Leap heads as they are trained: h = x + SiLU(W x + b), then a bias-free output matrix.

Parameter names are those of the reference's checkpoints, so `state_dict` of `LeapHeads` is what
the file holds (arXiv 2505.17505, section 3; vllm_lmtp/formats/checkpoint.py reads it back).

Notation: N rows of hidden states, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class ResBlock(nn.Module):
    """x + SiLU(W x + b). W starts at zero, b as nn.Linear draws it, as in the reference."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.l_proj = nn.Linear(hidden_size, hidden_size)
        nn.init.zeros_(self.l_proj.weight)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows [..., H] to [..., H] of the same dtype."""
        return rows + functional.silu(self.l_proj(rows))


class LeapHead(nn.Module):
    """One extra head; it starts from a copy of the backbone's output matrix."""

    def __init__(self, output_matrix: Tensor) -> None:
        super().__init__()
        vocab_size, hidden_size = output_matrix.shape
        self.resblock = nn.ModuleList([ResBlock(hidden_size)])
        self.lm_head = nn.Linear(hidden_size, vocab_size, bias=False)
        with torch.no_grad():
            self.lm_head.weight.copy_(output_matrix)

    def trunk(self, rows: Tensor) -> Tensor:
        """What the output matrix reads: rows [N, H] to [N, H]."""
        for block in self.resblock:
            rows = block(rows)
        return rows

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [N, H], the backbone's final-norm hidden states, to logits [N, V]."""
        return cast(Tensor, self.lm_head(self.trunk(rows)))


class LeapHeads(nn.Module):
    """`n_head` heads under the names `heads.<i>.resblock.0.l_proj` and `heads.<i>.lm_head`."""

    def __init__(self, n_head: int, output_matrix: Tensor) -> None:
        """output_matrix: the backbone's [V, H] output matrix, copied once per head."""
        super().__init__()
        self.heads = nn.ModuleList(LeapHead(output_matrix) for _ in range(n_head))

    def __len__(self) -> int:
        return len(self.heads)

    def __getitem__(self, head: int) -> LeapHead:
        return cast(LeapHead, self.heads[head])
