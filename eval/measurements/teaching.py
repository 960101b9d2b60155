"""Lets an engine find its draft length at each load, so that the next one starts warm."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from vllm_lmtp.eval.engines.methods import Method
from vllm_lmtp.eval.engines.process import refusing_failure
from vllm_lmtp.eval.engines.variants import Variant
from vllm_lmtp.eval.measurements.speed import Engines, Plan
from vllm_lmtp.eval.prompts.asking import Progress, Questions, Settings


def teach(
    variant: Variant,
    file: Path,
    questions: Questions,
    settings: Settings,
    plan: Plan,
    progress: Progress,
) -> None:
    """Serve every load for a round, with what is learnt kept in `file` (`lmtp_draft_length_file`).

    Raises:
        LMTPError: the engine cannot be run, or the file cannot be.
    """
    found = {"lmtp_draft_length": "auto", "lmtp_draft_length_file": str(file)}
    method = Method("automatic", variant.speculative_config | found)
    engines = Engines(settings, questions, plan, 1, progress)
    with closing(engines), refusing_failure(settings.model, method.name):
        for streams in plan.streams:
            asked = plan.asked(questions, streams, None, 0)
            answers = plan.answers(streams, settings.max_tokens)
            engines.get(method).stream(asked, streams, answers)
            progress(f"learning: {streams} stream(s)")
    progress(f"wrote {file}")
