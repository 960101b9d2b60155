"""Counts the tokens that a request is given, not those behind its stop string."""

from __future__ import annotations

from typing import Any

from vllm_lmtp import METHOD
from vllm_lmtp.patches.record import Binding, Patch, around


def _init(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> None:
    wrapped(*args, **kwargs)
    config = engine.vllm_config.speculative_config
    engine.output_processor.lmtp_in_use = config is not None and config.method == METHOD


def _finished(wrapped: Any, processor: Any, args: Any, kwargs: Any) -> None:
    def call(request: Any, finish_reason: Any, iteration: Any) -> None:
        ours = iteration is not None and getattr(processor, "lmtp_in_use", False)
        if ours and getattr(request.detokenizer, "stop", None):
            surplus = request.stats.num_generation_tokens - request.detokenizer.num_output_tokens()
            request.stats.num_generation_tokens -= surplus
            iteration.num_generation_tokens -= surplus  # counted in this very iteration
        wrapped(request, finish_reason, iteration)

    call(*args, **kwargs)


PATCH = Patch(
    name="generation_tokens",
    why="vLLM counts the tokens of a step before it looks for stop strings, so drafts accepted "
    "behind one are in `vllm:generation_tokens` and in the request's histograms, though nobody is "
    "given them, with every speculative method.",
    bindings=(
        Binding("vllm.v1.engine.llm_engine", "LLMEngine.__init__", around(_init)),
        Binding("vllm.v1.engine.async_llm", "AsyncLLM.__init__", around(_init)),
        Binding(
            "vllm.v1.engine.output_processor",
            "OutputProcessor._update_stats_from_finished",
            around(_finished),
        ),
    ),
    written_against="vllm/v1/engine/output_processor.py, OutputProcessor.process_outputs and "
    "_trim_surplus_tokens; vllm/v1/metrics/stats.py (0.32.0, 0.33.0)",
    upstream="not reported yet; seen on 0.32.0 with ngram as well",
    remove_when="process_outputs counts what _trim_surplus_tokens has left",
)
