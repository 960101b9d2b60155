"""How the token of a place is chosen once its scores stand: the best one, or one drawn from them.

Where the request's text goes on with a token of its own (copying.py), both opinions are mixed: with
the weight w of the text's token c, token x has the probability (1 - w) q(x) + w [x = c], q being
the softmax of the scores. One comparison so decides between heads and text, one confidence comes
out, and what is drawn is drawn from this very distribution. Outside the heads' vocabulary q is 0.

Knows nothing of vLLM; each runner brings its own way to draw. Beside its choice a chooser may note
how confident it is.

Shapes: R requests, S this rank's shard of the heads' vocabulary with its padding, V the target's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.method.copying import OUTWEIGHS, DraftedCopy, Evidence, Origin

Choose = Callable[[torch.Tensor, int, DraftedCopy | None], torch.Tensor]
"""(scores [R, S], place, what the texts say of the draft, if they are asked) -> [R] int64, the
target tokens drafted at that place."""

Draw = Callable[[torch.Tensor, int], torch.Tensor]
"""(scores [R, V] over the target's tokens, place) -> [R] int64, drawn from their softmax."""


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

    def best_beside(
        self, scores: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `best_with_log_probability`, and the log-probability [R] of other target tokens [R],
        -inf for those that the heads cannot name."""
        ...

    def over_target_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        """[R, S] -> [R, V], the same on every rank; -inf for tokens that are never drafted."""
        ...


class Merged(NamedTuple):
    """What heads and text together hold for the likeliest token of a place.

    tokens: [R] int64. from_heads: [R] float32, their log-probability by the heads alone.
    copied: [R] bool, whether the text goes on with them. decided: [R] bool, whether that was the
    text's decision and not the heads'.
    """

    tokens: torch.Tensor
    from_heads: torch.Tensor
    copied: torch.Tensor
    decided: torch.Tensor


def merged(
    best: torch.Tensor, of_best: torch.Tensor, of_copied: torch.Tensor, text: Evidence
) -> Merged:
    """The likeliest token of the mixture, the text's on a tie.

    Args:
        best: [R] int64, the heads' best tokens. of_best, of_copied: [R] float32, log-probabilities
            of those and of the text's tokens by the heads alone.
    """
    alone = torch.log1p(-text.weights)
    copy = torch.logaddexp(alone + of_copied, text.weights.log())
    takes = (text.weights > 0) & (copy >= alone + of_best)
    tokens = torch.where(takes, text.tokens, best)
    copied = (text.weights > 0) & (tokens == text.tokens)
    decided = copied & decides(text, best)
    return Merged(tokens, torch.where(takes, of_copied, of_best), copied, decided)


def decides(text: Evidence, best: torch.Tensor) -> torch.Tensor:
    """Whether the text decides a place that gets its token: against the heads' best tokens, or
    whatever they are. Else it was the heads' own choice.

    Returns:
        [R] bool.
    """
    return (text.weights >= OUTWEIGHS) | (text.tokens != best)


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
    """Notes the confidence of every place of a draft.

    Args:
        into: [at least R, m] float32.
        rows: [R] int64, the rows of `into` that drafts are written to; None for the first R.
    """

    def __init__(
        self, confidence: Confidence, into: torch.Tensor, rows: torch.Tensor | None = None
    ) -> None:
        self.confidence, self.into, self.rows = confidence, into, rows

    def note(self, place: int, log_probability: torch.Tensor) -> None:
        """Take the log-probabilities [R] of the best tokens of a place."""
        self.write(place, self.confidence.at(place, log_probability))

    def note_merged(self, place: int, token: Merged, text: Evidence) -> None:
        """Take the likeliest tokens of a mixture: the heads' opinion is calibrated, then mixed."""
        heads = self.confidence.at(place, token.from_heads)
        self.write(place, (1 - text.weights) * heads + text.weights * token.copied)

    def write(self, place: int | slice, chances: torch.Tensor) -> None:
        """Note the confidence [R] float32 of a place as it is, or [R, m] of several."""
        rows = slice(len(chances)) if self.rows is None else self.rows
        self.into[rows, place] = chances


class Best:
    """The likeliest token of each place, and how confident it is where anybody asks."""

    def __init__(self, heads: Heads, meter: Meter | None) -> None:
        self.heads, self.meter = heads, meter

    def __call__(
        self, scores: torch.Tensor, place: int, copy: DraftedCopy | None = None
    ) -> torch.Tensor:
        """As `Choose`."""
        if copy is None:
            if self.meter is None:
                return self.heads.best_tokens(scores)
            best, log_probability = self.heads.best_with_log_probability(scores)
            self.meter.note(place, log_probability)
            return best
        text = copy.at(place)
        found = merged(*self.heads.best_beside(scores, text.tokens), text)
        copy.note(place, found.tokens, text, found.decided)
        if self.meter is not None:
            self.meter.note_merged(place, found, text)
        return found.tokens

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


class Drawn:
    """A token drawn from the scored distribution, which every rank holds whole.

    Its confidence is that of the best token, which depends on the tokens before alone. That of the
    drawn one would depend on the draw: to verify it only where it is likely takes tokens from
    another distribution than the rejection sampler is told of, and the output drifts.

    Args:
        temperature: of the draw, as a share of the request's own.
    """

    def __init__(
        self, heads: Heads, draw: Draw, temperature: float = 1.0, meter: Meter | None = None
    ) -> None:
        self.heads, self.draw, self.temperature, self.meter = heads, draw, temperature, meter

    def __call__(
        self, scores: torch.Tensor, place: int, copy: DraftedCopy | None = None
    ) -> torch.Tensor:
        """As `Choose`."""
        whole = self.heads.over_target_tokens(scores)
        if copy is None:
            tokens = self.draw(whole / self.temperature, place)
            if self.meter is not None:
                self.meter.note(place, whole.amax(dim=1) - whole.logsumexp(dim=1))
            return tokens
        text = copy.at(place)
        tokens = self.draw(mixed(whole, text) / self.temperature, place)
        best = whole.argmax(dim=1)
        copied = (text.weights > 0) & (tokens == text.tokens)
        copy.note(place, tokens, text, copied & decides(text, best))
        if self.meter is not None:
            total = whole.logsumexp(dim=1)
            of_copied = whole.gather(1, text.tokens.unsqueeze(1)).squeeze(1) - total
            found = merged(best, whole.amax(dim=1) - total, of_copied, text)
            self.meter.note_merged(place, found, text)
        return tokens
