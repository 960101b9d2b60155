"""Acceptance as served: an engine answers a set's prompts and says what each step accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_lmtp.eval.engines.engine import ACCEPTED_TOKENS, DRAFT_TOKENS, DRAFTS, Run, by_source
from vllm_lmtp.eval.engines.variants import Variant
from vllm_lmtp.eval.measurements.acceptance import Request, by_group, loops, summarise
from vllm_lmtp.eval.measurements.peer_names import modelopt_fields, speculators_rows
from vllm_lmtp.eval.prompts.asking import Progress, Questions, Settings, ask, start
from vllm_lmtp.observe.metrics import COLD
from vllm_lmtp.training.distillation.loops import loop_start


def measure(
    variants: Sequence[Variant],
    questions: Questions,
    settings: Settings,
    temperatures: Sequence[float],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Acceptance of each variant on the same prompts, at each temperature.

    At temperature 0 all variants write the same answers; above it each writes answers of its own
    from the same distribution.
    """
    found = []
    for variant in variants:
        progress(f"{variant.name}: starting the engine")
        engine = start(settings, questions, variant.whole_drafts)
        config = engine.llm.llm_engine.vllm_config
        num_drafts = config.speculative_config.num_speculative_tokens
        results = []
        for temperature in temperatures:
            run = ask(engine, questions, settings, temperature, progress, variant.name)
            results.append(
                {"temperature": temperature} | _result(variant, questions, run, num_drafts)
            )
        runner = 2 if config.use_v2_model_runner else 1
        engine.close()
        found.append(
            variant.facts()
            | {"num_drafts": num_drafts, "model_runner": runner, "temperatures": results}
        )
    return found


def requests_of(questions: Questions, run: Run) -> list[Request]:
    """One record for each answered prompt."""
    return [
        Request(
            asked.prompt.number,
            asked.prompt.group,
            len(asked.tokens),
            len(tokens),
            loop_start(tokens),
            steps.drafted,
            steps.accepted,
        )
        for asked, tokens, steps in zip(questions.asked, run.tokens, run.steps, strict=True)
    ]


def _result(variant: Variant, questions: Questions, run: Run, num_drafts: int) -> dict[str, Any]:
    requests = requests_of(questions, run)
    straight = [r for r in requests if r.loop_start is None]
    schedule, groups = variant.checkpoint.schedule, list(questions.facts["groups"])
    counters = run.counters
    return {
        "counters": {
            "drafts": counters[DRAFTS],
            "draft_tokens": counters[DRAFT_TOKENS],
            "accepted_tokens": counters[ACCEPTED_TOKENS],
            "cold_drafts": counters[COLD],
            "by_source": by_source(counters),
        },
        "loops": loops(requests),
        "all": summarise(requests, schedule, num_drafts),
        "without_loops": summarise(straight, schedule, num_drafts),
        "by_group": by_group(requests, groups),
        "by_group_without_loops": by_group(straight, groups),
        "requests": [r.record() for r in requests],
        "speculators": speculators_rows(requests, groups, num_drafts),
        "modelopt": modelopt_fields(requests),
    }
