"""Whether greedy output is plain decoding's, and by how little it differs where it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vllm_lmtp.eval.engines.variants import Variant
from vllm_lmtp.eval.measurements.rates import first_difference
from vllm_lmtp.eval.prompts.asking import Progress, Questions, Settings, ask, start
from vllm_lmtp.tools.fit.backbone import Backbone


def measure(
    variants: Sequence[Variant], questions: Questions, settings: Settings, progress: Progress
) -> list[dict[str, Any]]:
    """Compare each variant with plain decoding on all prompts."""
    progress("plain: starting the engine")
    engine = start(settings, questions, None)
    plain = ask(engine, questions, settings, 0.0, progress, "plain").tokens
    engine.close()
    found = []
    backbone: Backbone | None = None
    for variant in variants:
        progress(f"{variant.name}: starting the engine")
        engine = start(settings, questions, variant.speculative_config)
        tokens = ask(engine, questions, settings, 0.0, progress, variant.name).tokens
        engine.close()
        differences = []
        for asked, expected, got in zip(questions.asked, plain, tokens, strict=True):
            place = first_difference(expected, got)
            if place is None:
                continue
            if backbone is None:
                backbone = Backbone(settings.model, settings.dtype)
            margin = logit_margin(backbone, asked.tokens, expected, got, place)
            differences.append({"number": asked.prompt.number, "place": place} | margin)
        found.append(
            variant.facts()
            | {
                "answers": len(plain),
                "tokens": sum(map(len, plain)),
                "identical": len(plain) - len(differences),
                "differences": differences,
            }
        )
    return found


@torch.inference_mode()
def logit_margin(
    backbone: Backbone,
    prompt: Sequence[int],
    expected: Sequence[int],
    got: Sequence[int],
    place: int,
) -> dict[str, Any]:
    """What transformers thinks of the two tokens at the first difference.

    Returns:
        {"plain", "lmtp": the tokens, None where an answer had ended; "margin": the logit of plain's
        token less that of L-MTP's; "best_margin": the two best logits apart}. Margins are None
        where an answer had ended. A margin of rounding size means a near tie, which kernels may
        settle differently for batches of different shapes; a large one means a fault.
    """
    one, other = (row[place] if place < len(row) else None for row in (expected, got))
    found: dict[str, Any] = {"plain": one, "lmtp": other, "margin": None, "best_margin": None}
    if one is None or other is None:
        return found
    ids = torch.tensor([[*prompt, *expected[:place]]])
    logits = backbone.model(ids.to(backbone.model.device), use_cache=False).logits[0, -1].float()
    first, second = logits.topk(2).values.tolist()
    margin = float(logits[one] - logits[other])
    return found | {"margin": margin, "best_margin": first - second}
