"""Which offset each head really predicts, measured on text: the stride the heads were trained with.

Published checkpoints misstate their stride, and a wrong one serves correct text slowly. Head i read
at position t should agree with the token at t + 1 + k(i + 1) more often than with any other; where
the agreement peaks shows k. Plain torch, no vLLM: the rows may come from anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.formats.read import block_tensor, draft_vocabulary, output_matrix

MAX_OFFSET = 12
MIN_ROWS = 64
CHUNK = 256
# A peak must lead by this many standard errors of the difference before it counts as one.
CLEAR = 3.0


@dataclass(frozen=True)
class Passage:
    """A text as the backbone saw it. tokens: [L] int64. rows: [L, H], what its LM head read."""

    tokens: torch.Tensor
    rows: torch.Tensor


@dataclass(frozen=True)
class HeadAgreement:
    """How often one head's top token is the token at each offset.

    head: 0-based; -1 for the LM head itself, which should peak at 1. rates: one for each offset
    1..len(rates), 0..1, all over the same `num_rows` rows.
    """

    head: int
    rates: tuple[float, ...]
    num_rows: int

    @property
    def peak(self) -> int:
        """The offset of the highest rate, the nearer one on a tie."""
        return 1 + max(range(len(self.rates)), key=lambda i: (self.rates[i], -i))

    @property
    def is_clear(self) -> bool:
        """Whether the peak leads the runner-up by more than chance."""
        first, second = sorted(self.rates, reverse=True)[:2]
        variance = (first * (1 - first) + second * (1 - second)) / self.num_rows
        return first - second > CLEAR * math.sqrt(variance)


@dataclass(frozen=True)
class Finding:
    """What the heads show. stride: None when they show none. reason: in words."""

    stride: int | None
    reason: str


def measure(
    checkpoint: HeadsCheckpoint, passages: Sequence[Passage], max_offset: int = MAX_OFFSET
) -> tuple[HeadAgreement, ...]:
    """Agreement of every head with offsets 1..max_offset. One head is in memory at a time.

    Raises:
        LMTPError: the passages are too short to tell.
    """
    return tuple(
        agreement(head, partial(head_top_tokens, checkpoint, head), passages, max_offset)
        for head in range(checkpoint.schedule.n_heads)
    )


def agreement(
    head: int,
    top_tokens: Callable[[torch.Tensor], torch.Tensor],
    passages: Sequence[Passage],
    max_offset: int = MAX_OFFSET,
) -> HeadAgreement:
    """Agreement of one head.

    Args:
        head: its number, for the record.
        top_tokens: [N, H] rows -> [N] int64. Called once, with the rows of all passages.
        passages: only rows that have `max_offset` tokens after them count, so that all offsets
            are measured on the same rows.

    Raises:
        LMTPError: fewer than MIN_ROWS rows count.
    """
    usable = [p for p in passages if len(p.tokens) > max_offset]
    num_rows = sum(len(p.tokens) - max_offset for p in usable)
    if num_rows < MIN_ROWS:
        raise refuse(
            "text",
            "length",
            found=f"{num_rows} position(s) with {max_offset} tokens after them",
            expected=f"at least {MIN_ROWS}, better 1000",
            remedy="give a longer text, or none for text that the target writes itself",
        )
    top = top_tokens(torch.cat([p.rows[:-max_offset] for p in usable]))
    rates = []
    for offset in range(1, max_offset + 1):
        end = offset - max_offset
        truth = torch.cat([p.tokens[offset : end or None] for p in usable])
        rates.append(float((top == truth.to(top.device)).float().mean()))
    return HeadAgreement(head, tuple(rates), num_rows)


def find_stride(heads: Sequence[HeadAgreement]) -> Finding:
    """The stride k for which every head with a clear peak has it at 1 + k(i + 1)."""
    clear = [head for head in heads if head.is_clear]
    if not clear:
        return Finding(None, "no head agrees with one offset more than with the others")
    if all(head.peak == 1 for head in clear):
        return Finding(
            None, "the heads predict the next token, as heads do that were never trained"
        )
    strides = {(head.peak - 1) / (head.head + 1) for head in clear}
    peaks = ", ".join(f"head {head.head} at {head.peak}" for head in clear)
    if len(strides) > 1 or not (stride := strides.pop()).is_integer():
        return Finding(None, f"the heads peak at offsets that no stride explains: {peaks}")
    return Finding(int(stride), f"agreement peaks at 1 + {int(stride)}(i + 1): {peaks}")


def head_top_tokens(checkpoint: HeadsCheckpoint, head: int, rows: torch.Tensor) -> torch.Tensor:
    """The top token of one head on each row, computed in the rows' dtype on their device.

    Args:
        rows: [N, H].

    Returns:
        [N] int64 ids of the target.
    """
    top = [logits.argmax(dim=-1) for logits in _logits(checkpoint, head, rows)]
    return _target_ids(checkpoint, torch.cat(top))


def head_best_tokens(
    checkpoint: HeadsCheckpoint, head: int, rows: torch.Tensor, count: int
) -> torch.Tensor:
    """The `count` best tokens of one head on each row, computed as in `head_top_tokens`.

    Returns:
        [N, count] int64 ids of the target, best first; fewer columns where the head knows fewer.
        The smaller of two equals comes first, though which of several equals are the last that
        still count is left open.
    """
    count = min(count, checkpoint.output_rows)
    best = []
    for logits in _logits(checkpoint, head, rows):
        ids = logits.topk(count).indices.sort(dim=-1).values
        order = logits.gather(1, ids).argsort(dim=-1, descending=True, stable=True)
        best.append(ids.gather(1, order))
    return _target_ids(checkpoint, torch.cat(best))


def _logits(checkpoint: HeadsCheckpoint, head: int, rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """The logits [.., D or V] of one head on CHUNK rows after another."""
    weight, bias = (block_tensor(checkpoint, head, kind).to(rows) for kind in ("weight", "bias"))
    output = output_matrix(checkpoint, head, rows.dtype).to(rows)
    for x in torch.split(rows, CHUNK):
        for _ in range(checkpoint.num_layers):
            x = x + torch.nn.functional.silu(torch.nn.functional.linear(x, weight, bias))
        yield x @ output.T


def _target_ids(checkpoint: HeadsCheckpoint, ids: torch.Tensor) -> torch.Tensor:
    vocabulary = draft_vocabulary(checkpoint)
    return ids if vocabulary is None else vocabulary.to(ids.device)[ids]
