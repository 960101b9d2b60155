"""The likeliest token of each place: what greedy drafts are made of.

Shapes as in choice.py.
"""

from __future__ import annotations

import torch

from vllm_lmtp.method.choice import Chosen, Filling, Heads, Meter, Notes, merged
from vllm_lmtp.method.copying import DraftedCopy, Origin


class Best:
    """As `Choose`.

    Args:
        meter: takes how confident each choice is, where anybody asks.
    """

    def __init__(self, heads: Heads, meter: Meter | None) -> None:
        self.heads, self.meter = heads, meter

    def begin(self, copy: DraftedCopy | None) -> Filling:
        """As `Choose.begin`."""
        if copy is not None:
            return _BesideText(self.heads, self.meter, copy)
        return _TokensAlone(self.heads) if self.meter is None else _Alone(self.heads, self.meter)

    def of(self, rows: torch.Tensor) -> Best:
        """The same for some drafts of the batch: [r] int64."""
        meter = self.meter and Meter(self.meter.confidence, self.meter.into, rows)
        return Best(self.heads, meter)

    def end(self, copy: DraftedCopy, rows: torch.Tensor, place: int) -> None:
        """Take back what `copies` noted of some drafts [r] from a place on, where they now end."""
        copy.copying.sources[rows, place:] = Origin.HEADS
        if self.meter is not None:
            self.meter.into[rows, place:] = 0.0

    def copies(self, copy: DraftedCopy) -> torch.Tensor:
        """What the texts go on with, [R, m] int64, without the heads."""
        chances = copy.alone()
        if self.meter is not None:
            self.meter.write(slice(chances.shape[1]), chances)
        return copy.tokens


class _TokensAlone:
    """Heads alone, and nobody asks how sure they are."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """As `Filling`."""
        return self.heads.best_tokens(scores)

    def settle(self) -> None:
        """As `Filling.settle`."""


class _Alone:
    """Heads alone."""

    def __init__(self, heads: Heads, meter: Meter) -> None:
        self.heads, self.meter = heads, meter
        self._settled = 0
        self._likely: list[torch.Tensor] = []

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """As `Filling`."""
        best, log_probability = self.heads.best_with_log_probability(scores)
        self._likely.append(log_probability)
        return best

    def settle(self) -> None:
        """As `Filling.settle`."""
        if self._likely:
            places = slice(self._settled, self._settled + len(self._likely))
            self.meter.note(places, torch.stack(self._likely, dim=1))
            self._settled = places.stop
            self._likely.clear()


class _BesideText:
    """Heads and text."""

    def __init__(self, heads: Heads, meter: Meter | None, copy: DraftedCopy) -> None:
        self.heads, self.copy = heads, copy
        self.sought = heads.seek(copy.tokens)
        self.notes = Notes(copy, meter)

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """As `Filling`."""
        copy, follows = self.copy, self.copy.follows
        best, of_best, of_copied = self.heads.best_beside(scores, self.sought.at(place))
        found = merged(best, of_best, of_copied, copy.tokens[:, place], copy.lead(place))
        copy.go_on(place, found.tokens)
        self.notes.add(Chosen(found.tokens, best, found.tokens, found.from_heads, follows))
        return found.tokens

    def settle(self) -> None:
        """As `Filling.settle`."""
        self.notes.settle()
