"""How often heads name the right token on kept rows, given the true tokens before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.data.kept_rows import Answer
from vllm_lmtp.training.data.positions import Positions
from vllm_lmtp.training.data.rows import IGNORE
from vllm_lmtp.training.model.places import places
from vllm_lmtp.training.model.read_heads import TrainedHeads

TOPS = (1, 5, 10, 20)
POSITIONS = 512
"""Looked at at once."""


@torch.no_grad()
def rows_accuracy(trained: TrainedHeads, answers: Sequence[Answer]) -> dict[str, Any]:
    """Accuracy over every position with a token there; one outside the draft vocabulary is missed.

    Returns:
        {"heads": for each head alone, at its own offset, {"head", "offset", "positions", "top1",
        "top5", "top10", "top20"}}, and with a term {"places": for each place of a draft {"place",
        "positions", "top1", ...}}.
    """
    schedule = LeapSchedule(len(trained.heads), trained.stride)
    positions = Positions(answers, trained.stride - 1, 0, schedule.max_drafts)
    unknown = len(trained.vocab)
    known = trained.vocab.draft_ids(unknown)
    alone: dict[int, Counts] = {}
    together: dict[int, Counts] = {}
    for some in torch.split(torch.arange(len(positions)), POSITIONS):
        batch = positions.batch(some)
        rows = batch["rows"].to(trained.heads[0].lm_head.weight.dtype)
        labels = torch.where(batch["labels"] == IGNORE, IGNORE, known[batch["labels"].clamp(min=0)])
        for place in places(trained.heads, trained.term, schedule, rows, batch["tokens"]):
            truth = labels[:, place.number]
            logits = place.rows @ trained.heads[place.head].lm_head.weight.T
            if place.number % trained.stride == trained.stride - 1:
                alone.setdefault(place.head, Counts()).add(logits, truth)
            if trained.term is not None and place.state is not None:
                logits = logits + place.state @ trained.term.output_of(place.head).T
                together.setdefault(place.number, Counts()).add(logits, truth)
    found: dict[str, Any] = {
        "heads": [
            {"head": head, "offset": schedule.offset_of_head(head)} | counts.shares()
            for head, counts in alone.items()
        ]
    }
    if together:
        found["places"] = [{"place": place} | counts.shares() for place, counts in together.items()]
    return found


class Counts:
    """How many labels were among the best tokens."""

    def __init__(self) -> None:
        self.hits = torch.zeros(len(TOPS), dtype=torch.int64)
        self.positions = 0

    def add(self, logits: Tensor, truth: Tensor) -> None:
        """Logits [N, D] and labels [N], IGNORE where there is none."""
        logits, truth = logits[truth != IGNORE], truth[truth != IGNORE]
        found = logits.topk(min(max(TOPS), logits.shape[1])).indices == truth[:, None]
        self.hits += torch.stack([found[:, :n].sum() for n in TOPS])
        self.positions += len(truth)

    def shares(self) -> dict[str, Any]:
        """{"positions", "top1", ...}, rounded."""
        shares = (self.hits / max(1, self.positions)).tolist()
        tops = {f"top{n}": round(share, 4) for n, share in zip(TOPS, shares, strict=True)}
        return {"positions": self.positions} | tops
