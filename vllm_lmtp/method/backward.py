"""Backward decoding: hidden states of a step in, an ordered draft out.

This is all of L-MTP that runs per step, shared by both of vLLM's runners: the history supplies the
rows at lags k-1..0, each head reads its k rows in one product, and head after head yields k
adjacent tokens, so the draft is contiguous from offset 2 on (arXiv 2505.17505, section 3). With a
scorer each place is filled in the light of the one before it, which costs a step a place but no
further pass through a head; so it is where tokens are drawn (choice.py) or may be copied from the
request's own text (copying.py). Knows nothing of vLLM; the heads may be any object with these
methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from vllm_lmtp.method.best import Best
from vllm_lmtp.method.choice import Choose
from vllm_lmtp.method.copying import Copying, DraftedCopy
from vllm_lmtp.method.history import History
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.method.scorer import Scorer


class Heads(Protocol):
    """What backward decoding asks of the heads."""

    def top_tokens(self, rows: torch.Tensor, num_heads: int) -> torch.Tensor:
        """[N, H] rows -> [N, num_heads] int64, the top token of each of the first heads."""
        ...

    def logits(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        """[N, H] rows -> [N, S], this rank's logits of one head."""
        ...

    def best_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        """[N, S] scores of this rank -> [N] int64, the best token over all ranks."""
        ...


Worth = Callable[[int, torch.Tensor | None], bool]
"""(places filled, [r] int64 rows of the batch or None for all) -> whether to go on."""


class BackwardDecoder:
    """Turns the hidden states of one engine step into drafts.

    Args:
        schedule: heads and stride.
        heads: the loaded heads.
        history: tails of all request slots, of the same stride.
        scorer: adds what the preceding token says; None for each place's own best token.
        copying: lets the requests' own texts have a say, which takes a chooser; None to ask the
            heads alone.
    """

    def __init__(
        self,
        schedule: LeapSchedule,
        heads: Heads,
        history: History,
        scorer: Scorer | None = None,
        copying: Copying | None = None,
    ) -> None:
        self.schedule = schedule
        self.copying = copying
        self.scorer = scorer
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
        sampled: torch.Tensor | None = None,
        choose: Choose | None = None,
        worth: Worth | None = None,
        may_look: bool = False,
        ask_heads: bool = True,
    ) -> torch.Tensor:
        """Advance the history by one step and draft the tokens that follow it.

        Args:
            hidden, first, kept, start, slots: as in `History.advance`.
            num_drafts: tokens wanted, 0..n*k. Heads beyond the last one needed are not computed;
                with 0 only the history takes note, so that drafting can resume at any step.
            sampled: [R] int64, the token that the target has just sampled for each request, which
                a scorer needs; any id where there is none, as in the middle of a prompt.
            choose: picks the token of each place; None for the best.
            worth: asked before every head but the first whether any draft is worth going on with;
                None to fill all. Ranks must agree.
            may_look: whether the device may be read here, to ask heads only about drafts that their
                text does not decide, and no text where none says anything.
            ask_heads: False to draft what the texts say and nothing else, which takes `Best`.

        Returns:
            [R, num_drafts] int64, offsets 2..num_drafts+1 in order; fewer columns where it was not
            worth going on.
        """
        if num_drafts == 0:
            self.history.defer(hidden, first, kept, start, slots)
            return torch.empty(len(first), 0, dtype=torch.int64, device=hidden.device)
        copy = None if self.copying is None else self.copying.begin(slots, num_drafts)
        step = (hidden, first, kept, start, slots)
        if not ask_heads:
            assert copy is not None
            assert isinstance(choose, Best)
            self.history.defer(*step)
            return choose.copies(copy)
        if may_look and copy is not None:
            undecided = copy.undecided()
            if isinstance(choose, Best) and len(undecided) < len(first):
                return self._beside_copies(
                    step, undecided, num_drafts, sampled, choose, worth, copy
                )
            copy = copy if copy.says_anything() else None
        states = self.history.advance(*step).states
        return self._by_heads(states, sampled, num_drafts, choose, worth, copy)

    def _beside_copies(
        self,
        step: tuple[torch.Tensor, ...],
        undecided: torch.Tensor,
        num_drafts: int,
        sampled: torch.Tensor | None,
        choose: Best,
        worth: Worth | None,
        copy: DraftedCopy,
    ) -> torch.Tensor:
        """A draft in which texts decide most; heads fill the rows [r] that they leave."""
        draft = choose.copies(copy)
        if not len(undecided):
            self.history.defer(*step)
            return draft
        states = self.history.advance(*step).states[undecided]
        rest = copy.of(undecided)
        filled = self._by_heads(
            states,
            None if sampled is None else sampled[undecided],
            num_drafts,
            choose.of(undecided),
            worth,
            rest if rest.says_anything() else None,
            undecided,
        )
        draft[undecided, : filled.shape[1]] = filled
        choose.end(copy, undecided, filled.shape[1])
        return draft

    def _by_heads(
        self,
        states: torch.Tensor,
        sampled: torch.Tensor | None,
        num_drafts: int,
        choose: Choose | None,
        worth: Worth | None,
        copy: DraftedCopy | None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `fill`; all places at once where none depends on the one before it."""
        num_reqs, stride, size = states.shape
        num_heads = self.schedule.heads_needed(num_drafts)
        flat = states.reshape(-1, size)

        def ordered(of_rows: torch.Tensor) -> torch.Tensor:
            # [R * k, heads] -> [R, heads, k]: head-major, and within a head from lag k-1 to 0.
            by_head = of_rows.view(num_reqs, stride, num_heads).transpose(1, 2)
            return by_head.reshape(num_reqs, -1)[:, :num_drafts]

        independent = self.scorer is None and copy is None and worth is None
        if not independent or not (choose is None or isinstance(choose, Best)):
            return self.fill(states, sampled, num_drafts, choose, worth, copy, rows)
        if choose is None or choose.meter is None:
            return ordered(self.heads.top_tokens(flat, num_heads))
        top, likely = choose.heads.top_with_log_probability(flat, num_heads)
        choose.meter.note(slice(num_drafts), ordered(likely))
        return ordered(top)

    def fill(
        self,
        states: torch.Tensor,
        sampled: torch.Tensor | None,
        num_drafts: int,
        choose: Choose | None,
        worth: Worth | None = None,
        copy: DraftedCopy | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The draft [R, num_drafts] int64, place after place.

        A head's places come one after another, so the logits of one head at a time are kept.

        Args:
            states: [R, k, H], oldest first. sampled, num_drafts, choose, worth: as in `draft`.
            copy: what the texts say of these drafts, if they are asked. rows: [R] int64, which of
                the batch they are; None for all.
        """
        num_reqs, stride, size = states.shape
        previous = sampled
        known = states[:, -1] if self.scorer is None else self.scorer.begin(states[:, -1])
        filling = None if choose is None else choose.begin(copy)
        draft: list[torch.Tensor] = []
        for head in range(self.schedule.heads_needed(num_drafts)):
            if head and worth is not None:
                if filling is not None:
                    filling.settle()
                if not worth(len(draft), rows):
                    break
            logits = self.heads.logits(states.reshape(-1, size), head)
            by_lag = logits.reshape(num_reqs, stride, -1)
            for inner in range(min(stride, num_drafts - len(draft))):
                scores = by_lag[:, inner].float()
                if self.scorer is not None:
                    assert previous is not None
                    known = self.scorer.read(known, previous)
                    scores = self.scorer.add(scores, head, known)
                if filling is None:
                    previous = self.heads.best_tokens(scores)
                else:
                    previous = filling(scores, len(draft))
                draft.append(previous)
        if filling is not None:
            filling.settle()
        return torch.stack(draft, dim=1)
