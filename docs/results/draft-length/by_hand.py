"""Draft lengths set by hand in one engine of the embedded checkpoint, beside plain decoding.

    python docs/results/draft-length/by_hand.py [STREAMS]

Of each length: milliseconds and tokens of steps in which every stream decodes, their speed over the
same engine's steps without drafts, and the whole run's over an engine without a draft method.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm_lmtp.checkpoints.subject import subject_of
from vllm_lmtp.eval.engines.engine import Engine, prepare_environment
from vllm_lmtp.length.controller import Controller
from vllm_lmtp.length.step import Step

LENGTHS = (0, 2, 4, -6)
WAVES, ROUNDS, TOKENS = 5, 5, 96


class ByHand(Controller):
    """Takes what it is told, and notes each step."""

    told = 0
    noted: list[Step] = []  # noqa: RUF012  (one engine)

    def choose(self, num_requests: int) -> int:
        return self.told

    def observe(self, step: Step) -> None:
        self.noted.append(step)
        self.now += step.seconds or 0.0  # else reports would follow each other at once

    def passes(self, num_requests: int, seconds: float) -> bool:
        return False


def full_steps(streams: int) -> tuple[float, float, int, int]:
    """Milliseconds and tokens of full steps, how many they are, and how many all."""
    full = [s for s in ByHand.noted if s.num_requests == streams and s.seconds]
    took = 1e3 * statistics.median(s.seconds or 0.0 for s in full)
    tokens = statistics.mean(1 + sum(s.accepted) / s.num_requests for s in full)
    return took, tokens, len(full), len(ByHand.noted)


def main() -> None:
    prepare_environment(1)
    subject = subject_of(None, None)
    streams = int(sys.argv[1]) if len(sys.argv) > 1 else len(subject.prompts)
    options: dict[str, Any] = {"dtype": "float32", "max_num_seqs": streams, "max_model_len": 224}
    plain = Engine(subject.model, None, True, **options)
    drafting = Engine(subject.model, {"method": "lmtp"}, True, **options)
    core = drafting.llm.llm_engine.engine_core.engine_core
    core.scheduler.lmtp_length.controller.__class__ = ByHand
    prompts = list(subject.prompts) * WAVES
    found: dict[int, list[tuple[float, tuple[float, float, int, int]]]] = {}
    for number in range(ROUNDS + 1):  # the first warms up
        start = time.perf_counter()
        plain.generate(prompts, TOKENS, 0.0)
        alone = time.perf_counter() - start
        for length in LENGTHS:
            ByHand.told = length
            ByHand.noted.clear()
            start = time.perf_counter()
            drafting.generate(prompts, TOKENS, 0.0)
            took = time.perf_counter() - start
            if number:
                found.setdefault(length, []).append((alone / took, full_steps(streams)))
    own = 1.0
    for length, rounds in found.items():
        ratio = statistics.median(ratio for ratio, _ in rounds)
        took, tokens, full, steps = (statistics.median(r[1][i] for r in rounds) for i in range(4))
        own = own if length else took
        print(
            f"{length:2d} drafts: {took:.2f} ms, {tokens:.2f} tokens, {tokens * own / took:.2f} of "
            f"our steps without drafts; {full:.0f} of {steps:.0f} steps full; run {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
