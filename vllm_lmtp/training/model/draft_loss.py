"""The loss of drafts at some positions: what each place is to name, after the true tokens.

A place is worth nothing where one before it is wrong, so place p counts `decay ** p`. It counts so
by how many of the positions teach it, the first ones of a batch drawn at random, instead of by a
factor: every product that is made counts in full, and a batch costs less. Heads that learn with a
term only are nothing without it, so a share of the positions also teaches them alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.data.draft_vocab import DraftVocab
from vllm_lmtp.training.data.rows import IGNORE
from vllm_lmtp.training.model.chunked_loss import NO_TARGET, Teacher, chunked_loss
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.loss import mean_of, shown
from vllm_lmtp.training.model.markov import MarkovTerm
from vllm_lmtp.training.model.places import places
from vllm_lmtp.training.settings.loss import LossConfig


class DraftLoss:
    """What does not change from batch to batch.

    Args:
        schedule: of the heads. vocab: that they name.
        config: losses and their weights. best: whether `ce` learns the backbone's best tokens
            instead of those that were written.
        decay: what each place of a draft counts less than the one before it.
        logits_budget: most logits (rows x vocabulary) held at once.
        alone: share of the positions that also teach heads without their term, and the weight of
            that.
    """

    def __init__(
        self,
        schedule: LeapSchedule,
        vocab: DraftVocab,
        config: LossConfig,
        decay: float,
        logits_budget: int,
        best: bool = False,
        alone: float = 0.0,
    ) -> None:
        self.schedule, self.config, self.decay = schedule, config, decay
        self.logits_budget, self.best, self.alone = logits_budget, best, alone
        self._draft_ids = vocab.draft_ids(unknown=NO_TARGET)

    @property
    def rows_after(self) -> int:
        """Rows after each position that are needed."""
        return self.schedule.max_drafts if self.config.soft or self.best else 0

    def counts(self, size: int) -> list[int]:
        """Of each place, how many of `size` positions teach it."""
        places = range(self.schedule.max_drafts)
        return [max(1, round(size * self.decay**place)) for place in places]

    def __call__(
        self,
        heads: LeapHeads,
        term: MarkovTerm | None,
        rows: Tensor,
        tokens: Tensor,
        labels: Tensor,
        teacher: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of one batch of `Positions`.

        Args:
            rows: [N, k + rows_after, H], in the heads' dtype.
            tokens, labels: int64 [N, places + 1] and [N, places], IGNORE where there is nothing to
                learn. A token outside the draft vocabulary teaches `ce` nothing.
            teacher: [D, H], the backbone's output matrix over the draft vocabulary, where rows
                after the position are needed.

        Returns:
            The loss, a float32 scalar (float64 for float64 rows): the mean of each place, times
            decay ** place, summed, and `alone` times the same of the heads without a term. And the
            means of the places, detached.
        """
        batch = rows, tokens, labels
        loss, losses = self._of(heads, term, batch, teacher)
        if term is not None and self.alone:
            count = max(1, round(len(rows) * self.alone))
            few = rows[:count], tokens[:count], labels[:count]
            loss = loss + self.alone * self._of(heads, None, few, teacher)[0]
        return loss, shown(losses)

    def _of(
        self,
        heads: LeapHeads,
        term: MarkovTerm | None,
        batch: tuple[Tensor, Tensor, Tensor],
        teacher: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of all places, and the mean of each; batch: rows, tokens and labels."""
        rows, tokens, labels = batch
        stride, counts = self.schedule.stride, self.counts(len(rows))
        known = labels != IGNORE
        ids = self._ids(labels)
        sums, found = [], []
        for place in places(heads, term, self.schedule, rows, tokens, counts):
            n, count = place.number, counts[place.number]
            exists, targets = known[:count, n], ids[:count, n]
            taught = None
            if teacher is not None:
                taught = Teacher(rows[:count, stride + n], teacher, exists, self.best)
            products = place.products(heads, term)
            sums.append(chunked_loss(products, targets, self.logits_budget, self.config, taught))
            found.append(((targets >= 0) if taught is None else exists).sum())
        first, step = (stride - 1, stride) if term is None else (0, 1)
        numbers = torch.arange(first, self.schedule.max_drafts, step, device=rows.device)
        losses = mean_of(sums, found)
        return (losses * self.decay**numbers).sum(), losses

    def _ids(self, labels: Tensor) -> Tensor:
        """Labels as draft ids, NO_TARGET where there is none."""
        self._draft_ids = self._draft_ids.to(labels.device)
        return torch.where(labels == IGNORE, NO_TARGET, self._draft_ids[labels.clamp(min=0)])
