"""Scheduled synchronously, vLLM asks its workers for drafts in a call of its own after each step.

Also after steps that drafted nothing. Prints the calls to workers by name, while one request gets
32 tokens. The prompt repeats nothing, so n-gram finds next to no drafts. Run on the CPU build of
0.32.0, where scheduling with n-gram drafts is synchronous.
"""

from __future__ import annotations

import collections
import os
from typing import Any

os.environ["VLLM_PLUGINS"] = ""  # without any plugin
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from tiny_model import ARGUMENTS, NGRAM, save_tiny_model
from vllm import LLM, SamplingParams


def main() -> None:
    llm = LLM(
        save_tiny_model(),
        speculative_config=NGRAM,
        distributed_executor_backend="mp",
        disable_log_stats=False,
        **ARGUMENTS,
    )
    executor = llm.llm_engine.engine_core.engine_core.model_executor
    ask, calls = executor.collective_rpc, collections.Counter[str]()

    def counting(method: Any, *args: Any, **options: Any) -> Any:
        calls[method] += 1
        return ask(method, *args, **options)

    executor.collective_rpc = counting
    asked = SamplingParams(temperature=1.0, max_tokens=32, ignore_eos=True)
    llm.generate({"prompt_token_ids": list(range(20))}, asked, use_tqdm=False)
    drafts = [m.value for m in llm.get_metrics() if m.name == "vllm:spec_decode_num_drafts"]
    print(f"calls: {dict(calls)}")
    print(f"drafts that were verified: {sum(drafts)}")


if __name__ == "__main__":
    main()
