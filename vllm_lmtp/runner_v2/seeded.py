"""Drafts drawn from the scored distribution on Model Runner V2, with what they were drawn from.

vLLM's own kernel draws, and keeps the scores for the rejection sampler. A draw depends on the
request's seed and on the position alone, so nothing but tensors changes from step to step, and
these never move: the drawing of a draft can be recorded in a CUDA graph.

Shapes: R requests in the batch, S slots of requests, V the target's vocabulary, m places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample


@dataclass(frozen=True)
class SeededDraw:
    """Draws the tokens of one place after another (`choice.Draw`).

    slots: [at least R] int64, of each row's request; -1 in rows whose draw does not count, which
        leave the cache alone.
    newest: [at least R] int64, the position of each request's newest token; the draw of a token is
        keyed by the position before its own.
    temperature: [S] float32. seeds: [S] int64. cache: [S, m, V], for the rejection sampler.
    places: arange(m). use_fp64: vLLM's setting of that name.
    """

    slots: torch.Tensor
    newest: torch.Tensor
    temperature: torch.Tensor
    seeds: torch.Tensor
    cache: torch.Tensor
    places: torch.Tensor
    use_fp64: bool

    def __call__(self, scores: torch.Tensor, place: int) -> torch.Tensor:
        """Tokens [R] int64 drawn from the scores [R, V] of a place."""
        count = len(scores)
        sampled: torch.Tensor = gumbel_sample(
            scores.to(self.cache.dtype).contiguous(),
            self.slots[:count],
            self.temperature,
            self.seeds,
            self.newest[:count] + place,
            apply_temperature=True,
            is_drafting=True,
            logits_cache=self.cache,
            logits_cache_col=self.places[place],
            use_fp64=self.use_fp64,
        )
        return sampled
