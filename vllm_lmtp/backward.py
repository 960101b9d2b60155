"""Backward decoding: hidden states of a step in, an ordered draft out.

This is all of L-MTP that runs per step, shared by both of vLLM's runners: the history supplies the
rows at lags k-1..0, each head reads its k rows in one product, and head after head yields k
adjacent tokens, so the draft is contiguous from offset 2 on (arXiv 2505.17505, section 3). Knows
nothing of vLLM; the heads may be any object with `top_tokens`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from vllm_lmtp.history import History
from vllm_lmtp.leap import LeapSchedule


class Heads(Protocol):
    """What backward decoding asks of the heads."""

    def top_tokens(self, rows: torch.Tensor, num_heads: int) -> torch.Tensor:
        """[N, H] rows -> [N, num_heads] int64, the top token of each of the first heads."""
        ...


class BackwardDecoder:
    """Turns the hidden states of one engine step into drafts.

    Args:
        schedule: heads and stride.
        heads: the loaded heads.
        history: tails of all request slots, of the same stride.
    """

    def __init__(self, schedule: LeapSchedule, heads: Heads, history: History) -> None:
        self.schedule = schedule
        self.heads = heads
        self.history = history

    def draft(
        self,
        hidden: torch.Tensor,
        first: torch.Tensor,
        kept: torch.Tensor,
        start: torch.Tensor,
        slots: torch.Tensor,
        num_drafts: int,
    ) -> torch.Tensor:
        """Advance the history by one step and draft the tokens that follow it.

        Args:
            hidden, first, kept, start, slots: as in `History.advance`.
            num_drafts: tokens wanted, 0..n*k. Heads beyond the last one needed are not computed;
                with 0 only the history advances, so that drafting can resume at any step.

        Returns:
            [R, num_drafts] int64, offsets 2..num_drafts+1 in order.
        """
        rows = self.history.advance(hidden, first, kept, start, slots)
        num_heads = self.schedule.heads_needed(num_drafts)
        num_reqs, stride, size = rows.states.shape
        if num_heads == 0:
            return torch.empty(num_reqs, 0, dtype=torch.int64, device=hidden.device)
        top = self.heads.top_tokens(rows.states.reshape(-1, size), num_heads)
        # [R * k, heads] -> [R, heads, k]: head-major, and within a head from lag k-1 to 0.
        ordered = top.view(num_reqs, stride, num_heads).transpose(1, 2)
        return ordered.reshape(num_reqs, -1)[:, :num_drafts]
