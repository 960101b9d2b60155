"""The last finalised hidden states of every request, kept between steps on the device.

Backward decoding reads the heads at the last k finalised positions of a request. A step of the
engine computes only some of them: after a rejected draft only one, at the start of a prompt chunk
none of the older ones. `History` keeps the k - 1 newest rows of each slot and joins them with the
rows of the running step.

Safety rests on positions, not on bookkeeping: a stored tail is used only if it ends exactly one
position before the step's first row. Chunked prefill, skipped steps and jumps over cached prefixes
therefore need no special case. Only a slot given to another request must be reset by its owner,
since positions can then agree by chance.

All tensors have static shapes and nothing is read back to the host, so the work may be recorded in
a CUDA graph. Knows nothing of vLLM.

Shapes: R requests in the batch, T rows of hidden states, H hidden size, S slots, k stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Rows:
    """What the heads read.

    states: [R, k, H], the dtype of the model, oldest first: entry j has lag k - 1 - j.
    known: [R] int64, how many of the lags 0..k-1 are really known, 1..k. A lag beyond them is
        filled with the oldest known row, so that shapes stay static; the draft is then cold.
    """

    states: torch.Tensor
    known: torch.Tensor


class History(nn.Module):
    """Tails of `num_slots` requests, plus one scratch slot for padded and dummy rows.

    Args:
        num_slots: slots that can be live at once.
        stride: k. With k = 1 nothing is kept.
        hidden_size: H.
        dtype, device: of the hidden states.

    A module whose tensors are buffers, because vLLM's sleep mode saves and restores buffers only.
    """

    tails: torch.Tensor
    tail_len: torch.Tensor
    tail_end: torch.Tensor
    lags: torch.Tensor

    def __init__(
        self,
        num_slots: int,
        stride: int,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.scratch_slot = num_slots
        slots = num_slots + 1
        # Newest first: tails[s, j] is the row j positions before the tail's last one.
        state = {
            "tails": torch.zeros(slots, stride - 1, hidden_size, dtype=dtype, device=device),
            "tail_len": torch.zeros(slots, dtype=torch.int64, device=device),
            "tail_end": torch.full((slots,), -1, dtype=torch.int64, device=device),
            "lags": torch.arange(stride - 1, -1, -1, dtype=torch.int64, device=device),
        }
        for name, tensor in state.items():
            self.register_buffer(name, tensor, persistent=False)

    def reset(self, slot: int) -> None:
        """Forget what `slot` holds; call it whenever the slot is given to a request."""
        self.tail_len[slot] = 0

    def defer(
        self,
        hidden: torch.Tensor,
        first: torch.Tensor,
        kept: torch.Tensor,
        start: torch.Tensor,
        slots: torch.Tensor,
    ) -> None:
        """As `advance`, for a step that drafts nothing and so reads no rows."""
        self.advance(hidden, first, kept, start, slots)

    def defer_one_each(
        self, rows: torch.Tensor, start: Sequence[int], slots: Sequence[int]
    ) -> None:
        """As `defer`, for a step of one row a request, which takes no operation of a device.

        Args:
            rows: [R, H], kept by reference. start, slots: R of each, on the host.
        """
        self.advance(*one_each(rows, start, slots))

    def catch_up(self) -> None:
        """Do at once whatever `defer` left undone."""

    def advance(
        self,
        hidden: torch.Tensor,
        first: torch.Tensor,
        kept: torch.Tensor,
        start: torch.Tensor,
        slots: torch.Tensor,
    ) -> Rows:
        """Join one step's rows with the stored tails and store the new tails.

        Args:
            hidden: [T, H], final-norm hidden states of the step (what the LM head reads).
            first: [R] int64, index in `hidden` of each request's first row.
            kept: [R] int64 >= 1, how many of its rows are finalised: its rows less the rejected.
            start: [R] int64, position in the sequence of its first row.
            slots: [R] int64; padded or dummy rows use `scratch_slot`.

        Returns:
            The rows at lags k-1..0 of every request.
        """
        last = first + kept - 1
        if self.stride == 1:
            return Rows(hidden[last].unsqueeze(1), torch.ones_like(kept))

        joins = self.tail_end[slots] == start - 1
        known = torch.clamp(kept + self.tail_len[slots] * joins, max=self.stride)
        lag = torch.minimum(self.lags, known.unsqueeze(1) - 1)  # [R, k]

        in_step = lag < kept.unsqueeze(1)
        here = hidden[(last.unsqueeze(1) - lag).clamp_(min=0)]
        back = (lag - kept.unsqueeze(1)).clamp_(min=0, max=self.stride - 2)
        states = torch.where(in_step.unsqueeze(2), here, self.tails[slots.unsqueeze(1), back])

        self.tails[slots] = states[:, 1:].flip(1)
        self.tail_len[slots] = torch.clamp(known, max=self.stride - 1)
        self.tail_end[slots] = start + kept - 1
        return Rows(states, known)


def one_each(
    rows: torch.Tensor, start: Sequence[int], slots: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """What `History.advance` takes, for a step of one row a request."""
    device = rows.device
    first = torch.arange(len(rows), device=device)
    start_and_slots = torch.tensor([list(start), list(slots)], dtype=torch.int64).to(device)
    return rows, first, torch.ones_like(first), start_and_slots[0], start_and_slots[1]
