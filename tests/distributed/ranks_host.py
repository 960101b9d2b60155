"""A host whose engine has several data-parallel ranks, which `vllm.LLM` alone does not start."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.host import Host, main


class RanksHost(Host):
    """As `Host`, over vLLM's server engine with its own load balancing."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._rank: int | None = None
        self._asked = 0

    def start(self, args: dict[str, Any]) -> dict[str, Any]:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        async def started() -> Any:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**args))

        self.stop()
        self.llm = self._loop.run_until_complete(started())
        config = self.llm.vllm_config
        return {
            "runner": 2 if config.use_v2_model_runner else 1,
            "async": bool(config.scheduler_config.async_scheduling),
        }

    def stop(self) -> dict[str, Any]:
        if self.llm is not None:
            self.llm.shutdown()
        self.llm = None
        return {}

    def pin(self, rank: int | None) -> dict[str, Any]:
        """Send requests to one rank from now on; None leaves it to vLLM."""
        self._rank = rank
        return {}

    def generate(self, prompts: list[Any], params: Any) -> dict[str, Any]:
        before, by_rank = self.counters(), self._drafts_by_rank()
        tokens = self._loop.run_until_complete(self._all(prompts, params))
        after = self.counters()
        return {
            "tokens": tokens,
            "counters": {key: value - before.get(key, 0) for key, value in after.items()},
            "drafts_by_rank": [
                value - by_rank.get(rank, 0)
                for rank, value in sorted(self._drafts_by_rank().items())
            ],
        }

    async def _all(self, prompts: list[Any], params: Any) -> list[list[list[int]]]:
        tokens = await asyncio.gather(*(self._one(prompt, params) for prompt in prompts))
        await asyncio.sleep(0.5)  # the engine counts after it has handed over the last tokens
        return tokens

    async def _one(self, prompt: list[int], params: Any) -> list[list[int]]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(**params, output_kind=RequestOutputKind.FINAL_ONLY)
        self._asked += 1
        final = None
        async for output in self.llm.generate(
            {"prompt_token_ids": prompt},
            sampling,
            f"request-{self._asked}",
            data_parallel_rank=self._rank,
        ):
            final = output
        assert final is not None
        return [list(completion.token_ids) for completion in final.outputs]

    def _drafts_by_rank(self) -> dict[str, int]:
        from vllm.v1.metrics.reader import get_metrics_snapshot

        return {
            metric.labels["engine"]: metric.value
            for metric in get_metrics_snapshot()
            if metric.name == "vllm:spec_decode_num_drafts"
        }


if __name__ == "__main__":
    main(RanksHost())
