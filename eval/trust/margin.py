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
    """A `Margin` by transformers, which loads the target with the first difference."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._backbone: Backbone | None = None

    def __call__(
        self, prompt: Sequence[int], expected: Sequence[int], got: Sequence[int], place: int
    ) -> dict[str, Any]:
        if self._backbone is None:
            self._backbone = Backbone(self._model)
        return logit_margin(self._backbone, prompt, expected, got, place)


def is_near(difference: dict[str, Any]) -> bool:
    """Whether a difference, with its margin, is a near tie."""
    apart = difference["best_margin"]
    return apart is not None and apart <= NEAR
