"""Head accuracy on text that the target wrote itself, in answer to a set's prompts.

vLLM writes the answers; transformers recomputes the rows that the heads read, so nothing here
depends on how heads are served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vllm_lmtp.eval.engines.variants import Variant
from vllm_lmtp.eval.offline.accuracy import MOST_TOP, TOPS, RankedText, summarise
from vllm_lmtp.eval.prompts.asking import Progress, Questions, Settings, ask, start
from vllm_lmtp.eval.statistics import share
from vllm_lmtp.formats.read import draft_vocabulary
from vllm_lmtp.tools.fit.agreement import MAX_OFFSET, head_best_tokens
from vllm_lmtp.tools.fit.backbone import Backbone
from vllm_lmtp.tools.fit.fitness import check_fit
from vllm_lmtp.training.distillation.loops import loop_start


def measure(
    variants: Sequence[Variant],
    questions: Questions,
    settings: Settings,
    temperatures: Sequence[float],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Accuracies of each variant's heads at each temperature, all on the same answers.

    Raises:
        LMTPError: heads do not fit the target.
    """
    for variant in variants:
        check_fit(variant.checkpoint, settings.model)
    progress("the target: starting the engine")
    engine = start(settings, questions, None)
    written = {
        t: ask(engine, questions, settings, t, progress, "the target's answers").tokens
        for t in temperatures
    }
    engine.close()
    backbone = Backbone(settings.model)
    lag = max(v.checkpoint.schedule.stride for v in variants) - 1
    found = []
    for temperature, answers in written.items():
        progress(f"T = {temperature:g}: hidden states")
        rows = [
            _read(backbone, asked.tokens, answer, lag)
            for asked, answer in zip(questions.asked, answers, strict=True)
        ]
        looping = [loop_start(answer) is not None for answer in answers]
        results = []
        for variant in variants:
            progress(f"T = {temperature:g}: heads of {variant.name}")
            results.append(variant.facts() | _heads(variant, questions, rows, looping))
        found.append(
            {
                "temperature": temperature,
                "answers": len(answers),
                "tokens": sum(map(len, answers)),
                "looping_answers": sum(looping),
                "lm_head": _lm_head(backbone, rows),
                "heads": results,
            }
        )
    return found


class _Rows:
    """The end of a prompt and its answer: tokens [L], rows [L, H]; `prompt` are the prompt's."""

    def __init__(self, tokens: torch.Tensor, rows: torch.Tensor, prompt: int) -> None:
        self.tokens, self.rows, self.prompt = tokens, rows, prompt


def _read(backbone: Backbone, prompt: Sequence[int], answer: Sequence[int], lag: int) -> _Rows:
    """The rows of an answer, of the prompt's last position, and of `lag` positions before it."""
    (passage,) = backbone.read([torch.tensor([*prompt, *answer], dtype=torch.int64)])
    first = max(0, len(prompt) - 1 - lag)
    return _Rows(passage.tokens[first:], passage.rows[first:].clone(), len(prompt) - first)


def _heads(
    variant: Variant, questions: Questions, rows: Sequence[_Rows], looping: Sequence[bool]
) -> dict[str, Any]:
    """One head is in memory at a time, and reads the rows of all answers at once."""
    checkpoint = variant.checkpoint
    together = torch.cat([r.rows for r in rows])
    sizes = [len(r.rows) for r in rows]
    tops = [
        torch.split(head_best_tokens(checkpoint, head, together, MOST_TOP).cpu(), sizes)
        for head in range(checkpoint.schedule.n_heads)
    ]
    texts = [
        RankedText(r.tokens, r.prompt, tuple(top[i] for top in tops), asked.prompt.group)
        for i, (r, asked) in enumerate(zip(rows, questions.asked, strict=True))
    ]
    schedule, vocabulary = checkpoint.schedule, draft_vocabulary(checkpoint)
    furthest = max(MAX_OFFSET, schedule.offset_of_head(schedule.n_heads - 1))
    straight = [text for text, loops in zip(texts, looping, strict=True) if not loops]
    return {
        "all": summarise(texts, schedule, furthest, vocabulary),
        "without_loops": summarise(straight, schedule, furthest, vocabulary),
    }


@torch.inference_mode()
def _lm_head(backbone: Backbone, rows: Sequence[_Rows]) -> dict[str, Any]:
    """How often the target's own best tokens hold the token it wrote: 1 at T = 0, less above it."""
    head = backbone.model.get_output_embeddings()
    hits: dict[int, list[tuple[float, float]]] = {top: [] for top in TOPS}
    for r in rows:
        truth = r.tokens[r.prompt :].unsqueeze(1)
        read = r.rows[r.prompt - 1 : len(r.tokens) - 1]
        best = torch.cat([head(x).topk(MOST_TOP).indices.cpu() for x in torch.split(read, 256)])
        for top in TOPS:
            hits[top].append((int((best[:, :top] == truth).sum()), len(truth)))
    return {f"top{top}": share(counts) for top, counts in hits.items()}
