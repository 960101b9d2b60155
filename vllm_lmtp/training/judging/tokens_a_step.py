"""Tokens a step of heads while they are trained: what a run goes by.

Drafts are filled with their own tokens, as they are served (`observed_drafts.py` does the same with
the decoder that serves a folder, and a test compares both).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.data.kept_rows import Answer
from vllm_lmtp.training.data.positions import Batch, Positions
from vllm_lmtp.training.model.read_heads import TrainedHeads

POSITIONS = 512
"""Drafted at once."""


class HeldAnswers:
    """Answers that tokens a step are measured on, by the temperature they were sampled at.

    Where tokens are drawn, one token is drafted and accepted with the target's chance of it; an
    answer that was drawn shows an unbiased sample of that.
    """

    def __init__(
        self, answers: Sequence[Answer], schedule: LeapSchedule, device: str | torch.device = "cpu"
    ) -> None:
        self.schedule = schedule
        self._by_temperature = {
            temperature: Positions(
                [a for a in answers if a.temperature == temperature],
                schedule.stride - 1,
                0,
                schedule.max_drafts,
                device,
            )
            for temperature in sorted({answer.temperature for answer in answers})
        }

    def __len__(self) -> int:
        """Positions in all."""
        return sum(map(len, self._by_temperature.values()))

    @torch.no_grad()
    def measure(self, trained: TrainedHeads) -> dict[float, dict[str, Any]]:
        """Of each temperature {"positions", "accepted": the share of drafts whose first n tokens
        are right, for every n, "length": tokens a step}, every position counting alike."""
        found = {}
        for temperature, positions in self._by_temperature.items():
            if not len(positions):
                continue
            right = [
                _right(trained, self.schedule, positions.batch(some))
                for some in torch.split(torch.arange(len(positions)), POSITIONS)
            ]
            shares = torch.stack(right).sum(dim=0) / len(positions)
            accepted = [round(share, 4) for share in shares.tolist()]
            found[temperature] = {
                "positions": len(positions),
                "accepted": accepted,
                "length": round(1 + sum(accepted), 4),
            }
        return found


def _right(trained: TrainedHeads, schedule: LeapSchedule, batch: Batch) -> Tensor:
    """int64 [places]: how many drafts of a batch are right up to each place."""
    heads, term, stride = trained.heads, trained.term, schedule.stride
    rows = batch["rows"].to(heads[0].lm_head.weight.dtype)
    ids = trained.vocab.target_ids.to(rows.device)
    previous, state = batch["tokens"][:, 0], None
    if term is not None:
        state = term.begin(rows[:, stride - 1])
    drafts = []
    for source in schedule.sources(schedule.max_drafts):
        logits = heads[source.head](rows[:, stride - 1 - source.lag])
        if term is not None and state is not None:
            state = term.read(state, previous)
            logits = logits + state @ term.output_of(source.head).T
        previous = ids[logits.argmax(dim=1)]
        drafts.append(previous)
    right = torch.stack(drafts, dim=1) == batch["labels"]
    return right.long().cumprod(dim=1).sum(dim=0)
