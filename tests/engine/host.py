"""A process that holds vLLM engines for the tests and answers JSON lines.

Engines live outside the test process because the choice of model runner is made once per process,
from its environment. Replies carry a mark, since vLLM logs to the same stream.
"""

from __future__ import annotations

import collections
import gc
import json
import os
import random
import sys
import traceback
from typing import Any

MARK = "<<reply>>"
KEPT = ("head", "lag", "position", "source", "draft_length", "batch_size")


class Host:
    """One engine at a time."""

    def __init__(self) -> None:
        self.llm: Any = None

    def start(self, args: dict[str, Any]) -> dict[str, Any]:
        from vllm import LLM

        self.stop()
        self.llm = LLM(**args)
        config = self.llm.llm_engine.vllm_config
        return {
            "runner": 2 if config.use_v2_model_runner else 1,
            "async": bool(config.scheduler_config.async_scheduling),
        }

    def stop(self) -> dict[str, Any]:
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        gc.collect()
        return {}

    def generate(self, prompts: list[Any], params: Any) -> dict[str, Any]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        def sampling(values: dict[str, Any]) -> SamplingParams:
            values = dict(values)
            if regex := values.pop("regex", None):
                values["structured_outputs"] = StructuredOutputsParams(regex=regex)
            return SamplingParams(**values)

        before = self.counters()
        inputs = [p if isinstance(p, str) else {"prompt_token_ids": p} for p in prompts]
        asked = [sampling(p) for p in params] if isinstance(params, list) else sampling(params)
        outputs = self.llm.generate(inputs, asked, use_tqdm=False)
        after = self.counters()
        return {
            "tokens": [[list(c.token_ids) for c in o.outputs] for o in outputs],
            "texts": [[c.text for c in o.outputs] for o in outputs],
            "finish": [[c.finish_reason for c in o.outputs] for o in outputs],
            "logprobs": [[_logprobs(c.logprobs) for c in o.outputs] for o in outputs],
            "cached": [o.num_cached_tokens for o in outputs],
            "counters": {key: value - before.get(key, 0) for key, value in after.items()},
        }

    def mistake_drafts(self, on: bool) -> dict[str, Any]:
        """Let Runner V1 hand over other probabilities than drafts were drawn from, or no longer."""
        from vllm_lmtp.runner_v1.drawing import Drawing

        if on:
            right = self.right = Drawing.probabilities

            def flattened(drawing: Any) -> Any:
                found = right(drawing)
                return None if found is None else (found.sqrt() / found.sqrt().sum(-1, True))

            Drawing.probabilities = flattened  # type: ignore[method-assign]
        else:
            Drawing.probabilities = self.right  # type: ignore[method-assign]
        return {}

    def choose_at_random(self, seed: int) -> dict[str, Any]:
        """Take any length in use at each step, whatever is known of it."""
        controller = self._scheduler().lmtp_length.controller
        dice, ask = random.Random(seed), controller.choose

        def choose(num_requests: int) -> int:
            ask(num_requests)
            return dice.choice(controller.lengths)

        controller.choose = choose
        return {}

    def lengths(self) -> dict[str, Any]:
        """What the engine's controller has seen and uses."""
        controller = self._scheduler().lmtp_length.controller
        in_use = {most: controller.in_use(most) for most in controller.sizes}
        return {"steps": controller.steps, "looks": controller.looks.taken, "in_use": in_use}

    def _scheduler(self) -> Any:
        return self.llm.llm_engine.engine_core.engine_core.scheduler

    def count_calls(self) -> dict[str, Any]:
        """Count from now on what an executor that is in this process asks of its workers."""
        executor = self.llm.llm_engine.engine_core.engine_core.model_executor
        ask, self.calls = executor.collective_rpc, collections.Counter[str]()

        def counting(method: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls[method] += 1
            return ask(method, *args, **kwargs)

        executor.collective_rpc = counting
        return {}

    def counted_calls(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def counters(self) -> dict[str, float]:
        """Every counter by name and the labels that matter; the sum where there are several."""
        from vllm.v1.metrics.reader import get_metrics_snapshot

        found: dict[str, float] = {}
        for metric in get_metrics_snapshot():
            if hasattr(metric, "values"):
                values = {f"/{place}": value for place, value in enumerate(metric.values)}
            elif hasattr(metric, "value"):
                labels = metric.labels
                kept = "".join(f"/{labels[k]}" for k in KEPT if k in labels)
                values = {kept: metric.value}
            else:
                continue
            for kept, value in values.items():
                found[metric.name + kept] = found.get(metric.name + kept, 0) + value
        return found


def _logprobs(steps: Any) -> Any:
    if steps is None:
        return None
    return [{str(t): round(entry.logprob, 3) for t, entry in step.items()} for step in steps]


def main(host: Host) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        try:
            reply = getattr(host, command.pop("op"))(**command)
        except BaseException as error:
            traceback.print_exc()
            reply = {"error": type(error).__name__, "message": str(error)}
        print(MARK + json.dumps(reply), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(Host())
