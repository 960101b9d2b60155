"""vLLM engines inside this process, and the difference of their counters over a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_lmtp.metrics import ACCEPTED, COLD, DRAFTED

DRAFTS = "vllm:spec_decode_num_drafts"
DRAFT_TOKENS = "vllm:spec_decode_num_draft_tokens"
ACCEPTED_TOKENS = "vllm:spec_decode_num_accepted_tokens"
ACCEPTED_PER_PLACE = "vllm:spec_decode_num_accepted_tokens_per_pos"
ENGINE_STEPS = "vllm:iteration_tokens_total"


@dataclass
class Run:
    """One or several calls of `Engine.generate`, added up.

    tokens, texts: of each prompt. seconds: wall time. counters: what the engine counted meanwhile,
    by metric name, or (name, place) or (name, head, lag).
    """

    tokens: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
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
        options: further arguments of `vllm.LLM`.
    """

    def __init__(
        self,
        model: str,
        speculative_config: dict[str, Any] | None,
        has_tokenizer: bool,
        **options: Any,
    ) -> None:
        from vllm import LLM

        self.has_tokenizer = has_tokenizer
        self.llm: Any = LLM(
            model=model,
            speculative_config=speculative_config,
            skip_tokenizer_init=not has_tokenizer,
            distributed_executor_backend="uni",
            disable_log_stats=False,
            enforce_eager=True,
            use_tqdm_on_load=False,
            # Rounds repeat their prompts; a cached prefix would make the later ones another test.
            enable_prefix_caching=False,
            # Two engines share the device.
            gpu_memory_utilization=0.4,
            seed=0,
            **options,
        )

    def generate(self, prompts: Sequence[Any], max_tokens: int, temperature: float) -> Run:
        """Generate for all prompts at once; each is a text or a list of token ids."""
        from vllm import SamplingParams

        inputs = [p if isinstance(p, str) else {"prompt_token_ids": p} for p in prompts]
        params = [
            SamplingParams(
                temperature=temperature,
                max_tokens=max_tokens,
                seed=seed if temperature > 0 else None,
                detokenize=self.has_tokenizer,
            )
            for seed in range(len(prompts))
        ]
        before = self._counters()
        start = time.perf_counter()
        outputs = self.llm.generate(inputs, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        return Run(
            [list(o.outputs[0].token_ids) for o in outputs],
            [o.outputs[0].text for o in outputs],
            seconds,
            self._counters() - before,
        )

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
            elif name in (DRAFTED, ACCEPTED):
                labels = metric.labels
                found[name, int(labels["head"]), int(labels["lag"])] += int(metric.value)
            elif name in (DRAFTS, DRAFT_TOKENS, ACCEPTED_TOKENS, COLD):
                found[name] += int(metric.value)
            elif name == ENGINE_STEPS:
                found[name] += metric.count
        return found
