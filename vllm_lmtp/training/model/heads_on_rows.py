"""What a Trainer trains where rows were kept: heads and, where there is one, their term."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor, nn

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.model.draft_loss import DraftLoss
from vllm_lmtp.training.model.read_heads import TrainedHeads
from vllm_lmtp.training.settings.heads import HeadsRun


class HeadsOnRows(nn.Module):
    """Heads, term and their loss.

    Args:
        teacher: [D, H], the backbone's output matrix over the draft vocabulary; needed where
            `loss.rows_after` is not 0.
    """

    def __init__(self, start: TrainedHeads, run: HeadsRun, teacher: Tensor | None = None) -> None:
        super().__init__()
        self.heads, self.term, self.vocab = start.heads, start.term, start.vocab
        self.loss = DraftLoss(
            LeapSchedule(len(start.heads), start.stride),
            start.vocab,
            run.loss,
            1.0 if run.term is None else run.term.decay,
            run.heads.logits_budget,
            best=run.learn == "best",
            alone=0.0 if run.term is None else run.term.alone,
        )
        self.register_buffer("teacher", teacher, persistent=False)
        self.recent: dict[str, list[Tensor]] = defaultdict(list)
        for name, parameter in self.heads.named_parameters():
            frozen = {"all": False, "blocks": "lm_head" in name, "term": True}[run.train]
            parameter.requires_grad_(not frozen)

    def trained(self) -> TrainedHeads:
        """What it holds now."""
        return TrainedHeads(self.heads, self.vocab, self.term, self.loss.schedule.stride)

    def forward(self, rows: Tensor, tokens: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss of a batch of `Positions`; its parts go to `recent`."""
        teacher = self.teacher if isinstance(self.teacher, Tensor) else None
        rows = rows.to(self.heads[0].lm_head.weight.dtype)
        loss, parts = self.loss(self.heads, self.term, rows, tokens, labels, teacher)
        names = "head" if self.term is None else "place"
        for number, part in enumerate(parts.unbind()):
            self.recent[f"loss_{names}_{number}"].append(part)
        return {"loss": loss}

    def parameter_groups(self, lr: float, lr_scale: float) -> list[dict[str, Any]]:
        """For the optimizer: the heads, and the term with its own learning rate."""
        groups = [{"params": [p for p in self.heads.parameters() if p.requires_grad], "lr": lr}]
        if self.term is not None:
            groups.append({"params": list(self.term.parameters()), "lr": lr * lr_scale})
        return [group for group in groups if group["params"]]
