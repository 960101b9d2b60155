"""An engine under hostile conditions: chunked prompts, cached prefixes, too small a cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vllm_lmtp.eval.engines.engine import Engine, Steps, steps_of
from vllm_lmtp.eval.trust.counters import Counts, difference, engine_counts
from vllm_lmtp.eval.trust.mixture import Request
from vllm_lmtp.formats.tokenizer import has_tokenizer

BLOCK = 32
"""Tokens of a block of the cache: what cached prefixes are counted in."""
ROOM = 2.5
"""The cache holds so many of the longest requests, which is less than what runs at once wants."""


@dataclass(frozen=True)
class Conditions:
    """slots: requests that run at once at most. chunk: tokens of a step at most. eager: not
    compiled."""

    model: str
    dtype: str
    context: int
    slots: int
    chunk: int
    eager: bool = True

    @property
    def blocks(self) -> int:
        """Of the cache, the one that vLLM keeps empty among them."""
        return 1 + int(ROOM * -(-self.context // BLOCK))

    def facts(self) -> dict[str, Any]:
        """Of a result."""
        return {k: v for k, v in vars(self).items() if k not in ("model", "dtype")} | {
            "cache_tokens": self.blocks * BLOCK
        }


@dataclass(frozen=True)
class Answered:
    """What became of some requests. steps: of each, empty for plain decoding. counts: of the
    engine meanwhile."""

    tokens: list[list[int]]
    steps: list[Steps]
    seconds: float
    counts: Counts


class Trial(Protocol):
    """An engine that answers requests greedily. runner: vLLM's model runner, 1 or 2. places: of
    the longest draft, 0 for plain decoding."""

    runner: int
    asynchronous: bool
    places: int

    def answer(self, requests: Sequence[Request]) -> Answered:
        """Answer all of them, which are there from the start."""

    def close(self) -> None:
        """End."""


class EngineTrial:
    """A real one."""

    def __init__(self, conditions: Conditions, speculative_config: dict[str, Any] | None) -> None:
        speculates = speculative_config is not None
        self._engine = Engine(
            conditions.model,
            speculative_config,
            has_tokenizer(conditions.model),
            dtype=conditions.dtype,
            max_num_seqs=conditions.slots,
            max_model_len=conditions.context,
            max_num_batched_tokens=conditions.chunk,
            enable_chunked_prefill=True,
            enable_prefix_caching=True,
            block_size=BLOCK,
            num_gpu_blocks_override=conditions.blocks,
            enforce_eager=conditions.eager,
            **({"per_request_spec_decode_metrics": "detailed"} if speculates else {}),
        )
        config = self._engine.llm.llm_engine.vllm_config
        self.runner = 2 if config.use_v2_model_runner else 1
        self.asynchronous = bool(config.scheduler_config.async_scheduling)
        self.places = config.speculative_config.num_speculative_tokens if speculates else 0

    def answer(self, requests: Sequence[Request]) -> Answered:
        """As `Trial`."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=0.0,
                max_tokens=request.max_tokens,
                ignore_eos=request.ignore_eos,
                detokenize=False,
            )
            for request in requests
        ]
        llm = self._engine.llm
        inputs = [{"prompt_token_ids": list(request.tokens)} for request in requests]
        before, begun = engine_counts(llm), time.perf_counter()
        outputs = llm.generate(inputs, params, use_tqdm=False)
        seconds = time.perf_counter() - begun
        found = [output.outputs[0] for output in outputs]
        return Answered(
            [list(one.token_ids) for one in found],
            [steps_of(one.spec_decode_metrics) for one in found] if self.places else [],
            seconds,
            difference(engine_counts(llm), before),
        )

    def close(self) -> None:
        """As `Trial`."""
        self._engine.close()
