"""A step's inputs to drafting in buffers that never move, as a CUDA graph needs them.

Of a step's T rows a draft reads at most the k newest finalised ones of each request. `DraftInputs`
gathers those, which turns any step of R requests into an equal one of R * k rows; what is left
depends on the padded number of requests only. Padded requests use the history's scratch slot.

Pure torch, static shapes, nothing read back. Shapes as in `history.py`.
"""

from __future__ import annotations

import torch


class DraftInputs:
    """Buffers for up to `max_reqs` requests.

    Args:
        max_reqs: requests of the largest graph.
        stride: k.
        hidden_size: H.
        scratch_slot: the history's slot for padded requests.
        dtype, device: of the hidden states.
    """

    def __init__(
        self,
        max_reqs: int,
        stride: int,
        hidden_size: int,
        scratch_slot: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.stride = stride
        self.scratch_slot = scratch_slot
        self.hidden = torch.zeros(max_reqs * stride, hidden_size, dtype=dtype, device=device)
        self.lags = torch.arange(stride - 1, -1, -1, device=device)
        # The newest row of request r always stands at (r + 1) * k - 1.
        self.ends = stride * torch.arange(1, max_reqs + 1, device=device)
        self.kept = torch.ones(max_reqs, dtype=torch.int64, device=device)
        self.first = self.ends - 1
        self.start = torch.zeros_like(self.kept)
        self.slots = torch.full_like(self.kept, scratch_slot)
        self.sampled = torch.zeros_like(self.kept)

    def fill(
        self,
        hidden: torch.Tensor,
        first: torch.Tensor,
        kept: torch.Tensor,
        start: torch.Tensor,
        slots: torch.Tensor,
        sampled: torch.Tensor | None,
        padded: int,
    ) -> None:
        """Take over a step of R requests, padded to `padded`.

        Args:
            hidden, first, kept, start, slots, sampled: as in `BackwardDecoder.draft`.
            padded: requests of the graph that will read this, >= R.
        """
        count = len(first)
        last = first + kept - 1
        # A lag that reaches before the request's first row reads some row that nobody looks at.
        newest = (last.unsqueeze(1) - self.lags).clamp_(min=0).flatten()
        torch.index_select(hidden, 0, newest, out=self.hidden[: count * self.stride])
        few = kept.clamp(max=self.stride)
        self.kept[:count] = few
        self.first[:count] = self.ends[:count] - few
        self.start[:count] = start + kept - few
        self.slots[:count] = slots
        self.slots[count:padded] = self.scratch_slot
        if sampled is not None:
            self.sampled[:count] = sampled

    def views(
        self, padded: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(hidden, first, kept, start, slots) of the first `padded` requests."""
        return (
            self.hidden[: padded * self.stride],
            self.first[:padded],
            self.kept[:padded],
            self.start[:padded],
            self.slots[:padded],
        )
