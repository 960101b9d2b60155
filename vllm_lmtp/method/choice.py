"""How the token of a place is chosen once its scores stand: what best.py and drawn.py share.

Where the request's text goes on with a token of its own (copying.py), both opinions are mixed: with
the weight w of the text's token c, token x has the probability (1 - w) q(x) + w [x = c], q being
the softmax of the scores. One comparison so decides between heads and text, one confidence comes
out, and what is drawn is drawn from this very distribution. Outside the heads' vocabulary q is 0.

A place needs its token before the next one can be filled; whose it is and how sure it is can wait
and are told of many places at once, since small operations cost by their number.

Knows nothing of vLLM; each runner brings its own way to draw.

Shapes: R requests, S this rank's shard of the heads' vocabulary with its padding, V the target's,
p places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.method.copying import OUTWEIGHS, DraftedCopy, Evidence


class Filling(Protocol):
    """Fills the places of one draft, in order."""

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """Scores [R, S] of a place -> [R] int64, the target tokens drafted there."""
        ...

    def settle(self) -> None:
        """Note whose the tokens are that were chosen since the last time, and how sure they are."""
        ...


class Choose(Protocol):
    """A way to choose tokens."""

    def begin(self, copy: DraftedCopy | None) -> Filling:
        """A draft begins; copy: what the texts say of it, if they are asked."""
        ...


class Simply:
    """As `Choose`, by a function of scores and place; it asks no text and notes nothing."""

    def __init__(self, choose: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        self._choose = choose

    def begin(self, copy: DraftedCopy | None) -> Simply:
        """As `Choose.begin`."""
        return self

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """As `Filling`."""
        return self._choose(scores, place)

    def settle(self) -> None:
        """As `Filling.settle`."""


Draw = Callable[[torch.Tensor, int], torch.Tensor]
"""(scores [R, V] over the target's tokens, place) -> [R] int64, drawn from their softmax."""


class Sought(NamedTuple):
    """Where this rank's shard of the heads' vocabulary has some target tokens.

    rows: int64 in 0..S-1. elsewhere: bool, whether it has them not.
    """

    rows: torch.Tensor
    elsewhere: torch.Tensor

    def at(self, place: int) -> Sought:
        """Of one place [R, 1], of many [R, p]."""
        return Sought(*(part[:, place : place + 1] for part in self))


class Heads(Protocol):
    """What a choice asks of the heads."""

    def top_with_log_probability(
        self, rows: torch.Tensor, num_heads: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, H] rows -> of each head the best token and its log-probability, [N, num_heads]."""
        ...

    def best_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        """[R, S] -> [R] int64, the best token over all ranks."""
        ...

    def best_with_log_probability(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[R, S] -> the best token over all ranks [R] int64, and its log-probability [R]."""
        ...

    def seek(self, tokens: torch.Tensor) -> Sought:
        """Target tokens [R, p] int64, for `best_beside` of each place."""
        ...

    def best_beside(
        self, scores: torch.Tensor, sought: Sought
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `best_with_log_probability`, and the log-probability [R] of other tokens [R, 1], -inf
        for those that the heads cannot name."""
        ...

    def over_target_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        """[R, S] -> [R, V], the same on every rank; -inf for tokens that are never drafted."""
        ...


class Merged(NamedTuple):
    """The likeliest token of the mixture of heads and text.

    tokens: [R] int64. from_heads: [R] float32, their log-probability by the heads alone.
    """

    tokens: torch.Tensor
    from_heads: torch.Tensor


def merged(
    best: torch.Tensor,
    of_best: torch.Tensor,
    of_copied: torch.Tensor,
    copied: torch.Tensor,
    lead: torch.Tensor,
) -> Merged:
    """The likeliest token of the mixture, the text's on a tie.

    Args:
        best: [R] int64, the heads' best tokens. of_best, of_copied: [R] float32, log-probabilities
            of those and of the text's tokens by the heads alone.
        copied: [R] int64, the text's tokens. lead: [R] float32, as `DraftedCopy.lead`.
    """
    takes = of_best.exp() - of_copied.exp() <= lead
    return Merged(torch.where(takes, copied, best), torch.where(takes, of_copied, of_best))


def mixed(scores: torch.Tensor, text: Evidence) -> torch.Tensor:
    """Log-probabilities of the mixture.

    Args:
        scores: [R, V] over the target's tokens.

    Returns:
        [R, V] float32, normalised.
    """
    log_probability = scores.float().log_softmax(dim=1) + torch.log1p(-text.weights).unsqueeze(1)
    place = text.tokens.unsqueeze(1)
    with_text = torch.logaddexp(log_probability.gather(1, place), text.weights.log().unsqueeze(1))
    return log_probability.scatter(1, place, with_text)


class Meter:
    """Notes the confidence of places of a draft.

    Args:
        into: [at least R, m] float32.
        rows: [R] int64, the rows of `into` that drafts are written to; None for the first R.
    """

    def __init__(
        self, confidence: Confidence, into: torch.Tensor, rows: torch.Tensor | None = None
    ) -> None:
        self.confidence, self.into, self.rows = confidence, into, rows

    def note(self, places: slice, log_probability: torch.Tensor) -> None:
        """Take the log-probabilities [R, p] of the best tokens of places."""
        self.write(places, self.confidence.at(places, log_probability))

    def note_merged(
        self, places: slice, from_heads: torch.Tensor, copied: torch.Tensor, weights: torch.Tensor
    ) -> None:
        """Take the likeliest tokens of mixtures: the heads' opinion is calibrated, then mixed.

        Args:
            from_heads: [R, p] float32, their log-probabilities by the heads. copied: [R, p] bool,
                whether the text goes on with them. weights: [R, p] float32, what the text counts.
        """
        heads = self.confidence.at(places, from_heads)
        self.write(places, (1 - weights) * heads + weights * copied)

    def write(self, places: slice, chances: torch.Tensor) -> None:
        """Note confidences [R, p] float32 as they are."""
        rows = slice(len(chances)) if self.rows is None else self.rows
        self.into[rows, places] = chances


class Chosen(NamedTuple):
    """What was found of a place where the text was asked, [R] each, or of many, [R, p].

    drafted, best: int64, the tokens, and the heads' best ones. likeliest: int64, those of the
    mixture, and from_heads: float32, their log-probability by the heads alone. follows: bool,
    whether the draft had done what the text says until then.
    """

    drafted: torch.Tensor
    best: torch.Tensor
    likeliest: torch.Tensor
    from_heads: torch.Tensor
    follows: torch.Tensor


class Notes:
    """Of the places of one draft, until they are settled.

    Args:
        copy: what the texts say of the draft. meter: where confidence goes, if anybody asks.
    """

    def __init__(self, copy: DraftedCopy, meter: Meter | None) -> None:
        self.copy, self.meter = copy, meter
        self._settled = 0
        self._chosen: list[Chosen] = []

    def add(self, chosen: Chosen) -> None:
        """Take note of the next place."""
        self._chosen.append(chosen)

    def settle(self) -> None:
        """As `Filling.settle`."""
        if not self._chosen:
            return
        places = slice(self._settled, self._settled + len(self._chosen))
        found = Chosen(*(torch.stack(part, dim=1) for part in zip(*self._chosen, strict=True)))
        self._settled = places.stop
        self._chosen.clear()
        tokens, weights = self.copy.tokens[:, places], self.copy.weights[:, places] * found.follows
        speaks = weights > 0
        decides = (weights >= OUTWEIGHS) | (tokens != found.best)
        self.copy.note(places, speaks, found.drafted == tokens, decides)
        if self.meter is not None:
            copied = speaks & (found.likeliest == tokens)
            self.meter.note_merged(places, found.from_heads, copied, weights)
