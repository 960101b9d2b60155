"""vLLM engines inside this process, and the difference of their counters over a run."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_lmtp.eval.prompts.lengths import length_of_each
from vllm_lmtp.observe.metrics import (
    ACCEPTED,
    ACCEPTED_BY_SOURCE,
    COLD,
    DRAFT_SECONDS,
    DRAFTED,
    DRAFTED_BY_SOURCE,
    FROM_COPY,
    FROM_HEAD,
    GAIN,
    LENGTH,
)

DRAFTS = "vllm:spec_decode_num_drafts"
DRAFT_TOKENS = "vllm:spec_decode_num_draft_tokens"
ACCEPTED_TOKENS = "vllm:spec_decode_num_accepted_tokens"
ACCEPTED_PER_PLACE = "vllm:spec_decode_num_accepted_tokens_per_pos"
ENGINE_STEPS = "vllm:iteration_tokens_total"
CACHE_GIB = "VLLM_CPU_KVCACHE_SPACE"
"""Where vLLM's CPU backend reads how many GiB an engine's KV cache has; left alone, it takes a
share of all memory for each. Where a user has set it, that holds."""
LEAST_CACHE_GIB = 1


def prepare_environment(threads: int) -> None:
    """Settle what vLLM reads from the environment, before it is imported."""
    # Engines live in this process, so that a start takes seconds and rounds can alternate.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # Numba, which ngram drafts with, would give vLLM's own kernels a thread for every core.
    os.environ["NUMBA_NUM_THREADS"] = str(threads)
    for name, value in {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # vLLM warns dozens of times about two engines in one process; the report says what matters.
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Steps:
    """The drafts of one request in order: how many tokens each had, and how many were accepted."""

    drafted: tuple[int, ...]
    accepted: tuple[int, ...]


def by_source(counters: Counter[Any]) -> list[dict[str, Any]]:
    """Drafted and accepted tokens by whether the text decided them; a rate where there are any."""
    found = []
    for source in (FROM_HEAD, FROM_COPY):
        drafted = counters[DRAFTED_BY_SOURCE, source]
        accepted = counters[ACCEPTED_BY_SOURCE, source]
        rate = accepted / drafted if drafted else None
        found.append({"source": source, "drafted": drafted, "accepted": accepted, "rate": rate})
    return found


@dataclass
class Run:
    """One or several calls of `Engine.generate`, added up.

    tokens, texts: of each prompt. steps: of each prompt, where the engine was started with
    `per_request_spec_decode_metrics="detailed"`. seconds: wall time. counters: what the engine
    counted meanwhile, by metric name, or (name, place), (name, source) or (name, head, lag); of
    draft times the sum by name, and their number as (name, "count").
    """

    tokens: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    steps: list[Steps] = field(default_factory=list)
    seconds: float = 0.0
    counters: Counter[Any] = field(default_factory=Counter)

    @property
    def num_tokens(self) -> int:
        """Tokens generated."""
        return sum(map(len, self.tokens))

    def add(self, other: Run) -> None:
        """Append another run."""
        self.tokens += other.tokens
        self.texts += other.texts
        self.steps += other.steps
        self.seconds += other.seconds
        self.counters += other.counters


class Engine:
    """One vLLM engine.

    Only the engine that was started last in a process shows its counters, since vLLM has one
    registry of metrics per process.

    Args:
        model: folder or Hugging Face id.
        speculative_config: None for plain decoding.
        has_tokenizer: without one, prompts are token ids and texts are empty.
        options: further arguments of `vllm.LLM`, or others instead of those given here.
    """

    def __init__(
        self,
        model: str,
        speculative_config: dict[str, Any] | None,
        has_tokenizer: bool,
        **options: Any,
    ) -> None:
        from vllm import LLM

        defaults: dict[str, Any] = {
            "enforce_eager": True,
            # Two engines share the device.
            "gpu_memory_utilization": 0.4,
            "distributed_executor_backend": "uni",
            # Rounds repeat their prompts; a cached prefix would make the later ones another test.
            "enable_prefix_caching": False,
        }
        os.environ.setdefault(CACHE_GIB, str(LEAST_CACHE_GIB))
        self.has_tokenizer = has_tokenizer
        self._has_steps = options.get("per_request_spec_decode_metrics") == "detailed"
        self.llm: Any = LLM(
            model=model,
            speculative_config=speculative_config,
            skip_tokenizer_init=not has_tokenizer,
            disable_log_stats=False,
            use_tqdm_on_load=False,
            seed=0,
            **(defaults | options),
        )

    def generate(
        self,
        prompts: Sequence[Any],
        max_tokens: int | Sequence[int],
        temperature: float,
        first_seed: int = 0,
    ) -> Run:
        """Generate for all prompts at once; each is a text or a list of token ids.

        max_tokens: of every answer, or of each. first_seed: of the first prompt; those after it
        count on.
        """
        from vllm import SamplingParams

        inputs = [p if isinstance(p, str) else {"prompt_token_ids": p} for p in prompts]
        params = [
            SamplingParams(
                temperature=temperature,
                max_tokens=length,
                seed=seed if temperature > 0 else None,
                detokenize=self.has_tokenizer,
            )
            for seed, length in enumerate(length_of_each(max_tokens, len(prompts)), first_seed)
        ]
        before = self._counters()
        start = time.perf_counter()
        outputs = self.llm.generate(inputs, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        return Run(
            [list(o.outputs[0].token_ids) for o in outputs],
            [o.outputs[0].text for o in outputs],
            [steps_of(o.outputs[0].spec_decode_metrics) for o in outputs if self._has_steps],
            seconds,
            self._counters() - before,
        )

    def stream(
        self, prompts: Sequence[list[int]], streams: int, max_tokens: int | Sequence[int]
    ) -> Run:
        """Answer token ids greedily, `streams` at a time: as one ends, the next begins.

        max_tokens: of every answer, or of each.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine = self.llm.llm_engine
        params = [
            SamplingParams(
                temperature=0.0,
                max_tokens=length,
                detokenize=self.has_tokenizer,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for length in length_of_each(max_tokens, len(prompts))
        ]
        answers: list[list[int]] = [[] for _ in prompts]
        begun = ended = 0
        before = self._counters()
        start = time.perf_counter()
        while ended < len(prompts):
            while begun < len(prompts) and begun - ended < streams:
                prompt = {"prompt_token_ids": prompts[begun]}
                engine.add_request(str(begun), prompt, params[begun])
                begun += 1
            for output in engine.step():
                if output.finished:
                    answers[int(output.request_id)] = list(output.outputs[0].token_ids)
                    ended += 1
        seconds = time.perf_counter() - start
        return Run(answers, [], [], seconds, self._counters() - before)

    def draft_lengths(self) -> list[dict[str, Any]]:
        """What is in use where the draft length is found while serving, by size of batch.

        Returns:
            requests: the most of a size. length: drafts a request, negative for copies alone. gain:
            estimated speed over plain decoding.
        """
        found: dict[int, dict[str, Any]] = {}
        for metric in self.llm.get_metrics():
            if metric.name in (LENGTH, GAIN):
                most = int(metric.labels["batch_size"])
                name = "length" if metric.name == LENGTH else "gain"
                found.setdefault(most, {"requests": most})[name] = metric.value
        return [found[most] for most in sorted(found)]

    def close(self) -> None:
        """Stop the engine and give its memory back."""
        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None

    def _counters(self) -> Counter[Any]:
        found: Counter[Any] = Counter()
        for metric in self.llm.get_metrics():
            name = metric.name
            if name == ACCEPTED_PER_PLACE:
                found.update({(name, place): n for place, n in enumerate(metric.values)})
            elif name in (DRAFTED_BY_SOURCE, ACCEPTED_BY_SOURCE):
                found[name, metric.labels["source"]] += int(metric.value)
            elif name in (DRAFTED, ACCEPTED):
                labels = metric.labels
                found[name, int(labels["head"]), int(labels["lag"])] += int(metric.value)
            elif name in (DRAFTS, DRAFT_TOKENS, ACCEPTED_TOKENS, COLD):
                found[name] += int(metric.value)
            elif name == ENGINE_STEPS:
                found[name] += metric.count
            elif name == DRAFT_SECONDS:
                found[name] += metric.sum
                found[name, "count"] += metric.count
        return found


def steps_of(metrics: Any) -> Steps:
    """vLLM's record of one request, which is missing where it never drafted."""
    if metrics is None:
        return Steps((), ())
    return Steps(tuple(metrics.per_step_drafted), tuple(metrics.per_step_accepted))
