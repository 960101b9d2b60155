"""A token drawn for each place from its scored distribution, which every rank holds whole.

The confidence of a place is that of its best token, which depends on the tokens before alone. That
of the drawn one would depend on the draw: to verify it only where it is likely takes tokens from
another distribution than the rejection sampler is told of, and the output drifts.

Shapes as in choice.py.
"""

from __future__ import annotations

import torch

from vllm_lmtp.method.choice import Chosen, Draw, Filling, Heads, Meter, Notes, merged, mixed
from vllm_lmtp.method.copying import DraftedCopy


class Drawn:
    """As `Choose`.

    Args:
        temperature: of the draw, as a share of the request's own.
    """

    def __init__(
        self, heads: Heads, draw: Draw, temperature: float = 1.0, meter: Meter | None = None
    ) -> None:
        self.heads, self.draw, self.temperature, self.meter = heads, draw, temperature, meter

    def begin(self, copy: DraftedCopy | None) -> Filling:
        """As `Choose.begin`."""
        return _Alone(self) if copy is None else _BesideText(self, copy)


class _Alone:
    """From the heads' distribution."""

    def __init__(self, way: Drawn) -> None:
        self.way = way

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """As `Filling`."""
        way, whole = self.way, self.way.heads.over_target_tokens(scores)
        if way.meter is not None:
            likely = whole.amax(dim=1, keepdim=True) - whole.logsumexp(dim=1, keepdim=True)
            way.meter.note(slice(place, place + 1), likely)
        return way.draw(whole / way.temperature, place)

    def settle(self) -> None:
        """As `Filling.settle`."""


class _BesideText:
    """From the mixture of heads and text."""

    def __init__(self, way: Drawn, copy: DraftedCopy) -> None:
        self.way, self.copy = way, copy
        self.notes = Notes(copy, way.meter)

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """As `Filling`."""
        way, copy, follows = self.way, self.copy, self.copy.follows
        whole = way.heads.over_target_tokens(scores)
        text = copy.at(place)
        tokens = way.draw(mixed(whole, text) / way.temperature, place)
        best, total = whole.argmax(dim=1), whole.logsumexp(dim=1)
        of_copied = whole.gather(1, text.tokens.unsqueeze(1)).squeeze(1) - total
        of_best = whole.amax(dim=1) - total
        found = merged(best, of_best, of_copied, text.tokens, copy.lead(place))
        copy.go_on(place, tokens)
        self.notes.add(Chosen(tokens, best, *found, follows))
        return tokens

    def settle(self) -> None:
        """As `Filling.settle`."""
        self.notes.settle()
