"""Drafts drawn from the scored distribution on Model Runner V1, with what they were drawn from.

The rejection sampler accepts a draft by the ratio of the target's probability to the draft's, so it
must be given the very distribution that the token came from. Draws follow the temperature of the
request; its other sampling parameters are the target's business. Goes with Model Runner V1.

Shapes: R requests, V the target's vocabulary, m places.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

GREEDY_BELOW = 1e-5
"""Temperatures under this count as 0, as in vLLM's sampler."""


class Drawing:
    """Draws the tokens of one draft, place after place.

    Args:
        temperature: [R] float32, 0 for greedy requests, which get the best token.
        generators: by row, of requests with a seed that have just sampled a token; none in the
            middle of a prompt, lest a request's numbers depend on how its prompt was cut.
    """

    def __init__(
        self, temperature: torch.Tensor, generators: Mapping[int, torch.Generator]
    ) -> None:
        self.greedy = temperature < GREEDY_BELOW
        self.temperature = torch.where(self.greedy, 1.0, temperature).unsqueeze(1)
        self.generators = generators
        self._drawn_from: list[torch.Tensor] = []

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """Tokens [R] int64 drawn from the scores [R, V] of the next place."""
        probabilities = (scores / self.temperature).softmax(dim=-1, dtype=torch.float32)
        self._drawn_from.append(probabilities)
        # The least of exponential waiting times, each at the rate of its token's probability.
        waiting = torch.empty_like(probabilities).exponential_()
        for row, generator in self.generators.items():
            waiting[row].exponential_(generator=generator)
        drawn = (probabilities / waiting).argmax(dim=-1)
        return torch.where(self.greedy, scores.argmax(dim=-1), drawn)

    def probabilities(self) -> torch.Tensor | None:
        """[R, m, V] float32, what each token was drawn from; None where nothing was drawn."""
        return torch.stack(self._drawn_from, dim=1) if self._drawn_from else None
