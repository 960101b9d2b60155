"""How far apart the logits are where two answers part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vllm_lmtp.eval.measurements.lossless import logit_margin
from vllm_lmtp.tools.fit.backbone import Backbone

Margin = Callable[[Sequence[int], Sequence[int], Sequence[int], int], "dict[str, Any]"]
"""Of a prompt, plain decoding's answer, the other one and the place of their first difference: what
`lossless.logit_margin` says."""
NEAR = 1e-4
"""Two best logits closer than this are a near tie: in float32, batches of other shapes move them
about as far."""


class MarginOf:
    """A `Margin` by transformers, which loads the target with the first difference.

    Args:
        dtype: of the engines; float32 ties are judged in float32.
    """

    def __init__(self, model: str, dtype: str) -> None:
        self._model, self._dtype = model, dtype
        self._backbone: Backbone | None = None

    def __call__(
        self, prompt: Sequence[int], expected: Sequence[int], got: Sequence[int], place: int
    ) -> dict[str, Any]:
        if self._backbone is None:
            self._backbone = Backbone(self._model, self._dtype)
        return logit_margin(self._backbone, prompt, expected, got, place)


def is_near(difference: dict[str, Any]) -> bool:
    """Whether a difference, with its margins, is a near tie: between the two best tokens, and these
    are the two that differ."""
    margins = difference["best_margin"], difference["margin"]
    return all(margin is not None and abs(margin) <= NEAR for margin in margins)
