"""How the token of a place is chosen once its scores stand: the best one, or one drawn from them.

Knows nothing of vLLM; each runner brings its own way to draw. Beside its choice a chooser may note
how confident it is.

Shapes: R requests, S this rank's shard of the heads' vocabulary with its padding, V the target's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from vllm_lmtp.method.confidence import Confidence

Choose = Callable[[torch.Tensor, int], torch.Tensor]
"""(scores [R, S], place) -> [R] int64, the target tokens drafted at that place."""

Draw = Callable[[torch.Tensor, int], torch.Tensor]
"""(scores [R, V] over the target's tokens, place) -> [R] int64, drawn from their softmax."""


class Heads(Protocol):
    """What a choice asks of the heads."""

    def top_with_log_probability(
        self, rows: torch.Tensor, num_heads: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, H] rows -> of each head the best token and its log-probability, [N, num_heads]."""
        ...

    def best_with_log_probability(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[R, S] -> the best token over all ranks [R] int64, and its log-probability [R]."""
        ...

    def over_target_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        """[R, S] -> [R, V], the same on every rank; -inf for tokens that are never drafted."""
        ...


class Meter:
    """Notes the confidence of every place of a draft.

    Args:
        into: [at least R, m] float32; row r of a draft is written to row r.
    """

    def __init__(self, confidence: Confidence, into: torch.Tensor) -> None:
        self.confidence, self.into = confidence, into

    def note(self, place: int, log_probability: torch.Tensor) -> None:
        """Take the log-probabilities [R] of the best tokens of a place."""
        found = self.confidence.at(place, log_probability)
        self.into[: len(found), place] = found


class ConfidentBest:
    """The best token of each place, as without a chooser, and how confident it is."""

    def __init__(self, heads: Heads, meter: Meter) -> None:
        self.heads, self.meter = heads, meter

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """As `Choose`."""
        best, log_probability = self.heads.best_with_log_probability(scores)
        self.meter.note(place, log_probability)
        return best


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

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """As `Choose`."""
        whole = self.heads.over_target_tokens(scores)
        tokens = self.draw(whole / self.temperature, place)
        if self.meter is not None:
            self.meter.note(place, whole.amax(dim=1) - whole.logsumexp(dim=1))
        return tokens
