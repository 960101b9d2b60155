"""What a step costs where nothing is drafted: engines as vLLM starts them, in short rounds.

python turns.py MODEL HEADS STREAMS ROUNDS

Plain decoding stands against itself too, which shows how far the machine alone moves the numbers.
Each line: median ms a step, then by how much the rounds exceed plain decoding's of the same round
and how fast they are beside it, both as median and quartiles.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

TOKENS = 96
PROMPTS = Path(__file__).parents[1] / "stories15m" / "openings.jsonl"


def main(model: str, heads: str, streams: int, rounds: int) -> None:
    """Measure and print."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams

    never = {
        "method": "lmtp",
        "model": heads,
        "num_speculative_tokens": 2,
        "num_speculative_tokens_per_batch_size": [[1, 64, 0]],
    }
    configs: dict[str, Any] = {"plain": None, "plain again": None, "drafts nothing": never}
    engines = {
        name: LLM(
            model,
            dtype="float32",
            enforce_eager=True,
            speculative_config=config,
            seed=0,
            max_num_seqs=64,
            enable_prefix_caching=False,
        )
        for name, config in configs.items()
    }
    lines = PROMPTS.read_text().splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines * 2][:streams]
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    found: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(-1, rounds):
        for name in list(engines)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            engines[name].generate(prompts, params, use_tqdm=False)
            if number >= 0:  # the first round warms up
                found[name].append(1e3 * (time.perf_counter() - start) / TOKENS)
    for name, steps in found.items():
        pairs = list(zip(steps, found["plain"], strict=True))
        more = spread([ours - plain for ours, plain in pairs])
        speed = spread([plain / ours for ours, plain in pairs])
        print(f"{name}: {statistics.median(steps):.3f} ms a step, {more} ms more, {speed} x")


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:5]))
