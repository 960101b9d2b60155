"""An engine host that serves as the server does: requests that come and go while others run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from tests.engine.host import Host, main


class StreamHost(Host):
    """Its engine is an `AsyncLLM`, whose core is a process of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.asked = 0

    def start(self, args: dict[str, Any]) -> dict[str, Any]:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.stop()

        async def make() -> AsyncLLM:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**args))

        self.llm = self.loop.run_until_complete(make())
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

    def in_parts(
        self, sessions: list[list[list[int]]], params: dict[str, Any], wait: bool
    ) -> dict[str, Any]:
        """Tokens of sessions whose prompt comes in parts.

        Args:
            sessions: the parts of each. params: of every part.
            wait: a part comes once the one before it is answered; else all come at once.
        """
        from vllm.engine.protocol import StreamingInput

        async def session(parts: list[list[int]]) -> list[int]:
            tokens: list[int] = []

            async def inputs() -> AsyncGenerator[StreamingInput, None]:
                for number, part in enumerate(parts):
                    while wait and len(tokens) < number * params["max_tokens"]:
                        await asyncio.sleep(0.01)
                    yield StreamingInput(prompt={"prompt_token_ids": part})

            async for output in self._ask(inputs(), params):
                tokens += output.outputs[0].token_ids
            return tokens

        return {"tokens": self._gather([session(parts) for parts in sessions])}

    def storm(
        self, prompts: list[list[int]], params: dict[str, Any], leave: list[int | None]
    ) -> dict[str, Any]:
        """What each request has got when it left.

        Args:
            leave: after how many tokens each is aborted; None for not at all.
        """

        async def one(prompt: list[int], most: int | None) -> list[int]:
            tokens: list[int] = []
            answers = self._ask({"prompt_token_ids": prompt}, params)
            async for output in answers:
                tokens += output.outputs[0].token_ids
                if most is not None and len(tokens) >= most:
                    break
            await answers.aclose()  # which aborts what has not ended
            return tokens

        before = self.counters()
        calls = [one(prompt, most) for prompt, most in zip(prompts, leave, strict=True)]
        tokens = self._gather(calls)
        after = self.counters()
        return {
            "tokens": tokens,
            "counters": {key: value - before.get(key, 0) for key, value in after.items()},
        }

    def _ask(self, prompt: Any, params: dict[str, Any]) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.asked += 1
        asked = SamplingParams(**params, output_kind=RequestOutputKind.DELTA)
        return self.llm.generate(prompt, asked, f"request-{self.asked}")

    def _gather(self, calls: list[Any]) -> list[Any]:
        async def all_of_them() -> list[Any]:
            return list(await asyncio.gather(*calls))

        return self.loop.run_until_complete(all_of_them())


if __name__ == "__main__":
    main(StreamHost())
