"""Whether the C heap of an engine grows by anything but products of new numbers of rows.

    python docs/results/soak/heap.py plain|lmtp MINUTES

Random words and lengths, up to sixteen requests at once, the embedded checkpoint, one process. On
CPUs each matrix multiplies by a program made for the number of rows, which oneDNN keeps. Printed:
bytes in use on the heap, and how much of them the first product of each matrix by each number of
rows has left behind.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import time
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm_lmtp.checkpoints.subject import subject_of
from vllm_lmtp.eval.engines.engine import Engine, prepare_environment

STREAMS, MIB, EVERY = 16, 2**20, 30.0
FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class Heap(ctypes.Structure):
    """As glibc's `mallinfo2` gives it."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Heap


def in_use() -> int:
    """Bytes, with blocks that have a mapping of their own."""
    heap = libc.mallinfo2()
    return int(heap.uordblks + heap.hblkhd)


class FirstProducts:
    """Stands where vLLM multiplies, and weighs what a product leaves behind that is a first one."""

    def __init__(self, multiply: Any) -> None:
        self.multiply, self.left = multiply, {}  # type: ignore[var-annotated]

    def __call__(self, handler: Any, x: Any, bias: Any) -> Any:
        key = id(handler), x.numel() // x.shape[-1]
        if key in self.left:
            return self.multiply(handler, x, bias)
        before = in_use()
        result = self.multiply(handler, x, bias)
        self.left[key] = in_use() - before - result.numel() * result.element_size()
        return result


def main() -> None:
    method, minutes = sys.argv[1], float(sys.argv[2])
    prepare_environment(1)
    from vllm import SamplingParams, _custom_ops
    from vllm.sampling_params import RequestOutputKind

    subject = subject_of(None, None)
    spec = None if method == "plain" else {"method": method}
    options: dict[str, Any] = {
        "dtype": "float32",
        "max_num_seqs": STREAMS,
        "max_model_len": 512,
        "max_num_batched_tokens": 128,
        "enable_prefix_caching": True,
        "gpu_memory_utilization": 0.3,
        "kv_cache_memory_bytes": 40 * MIB,
    }
    engine = Engine(subject.model, spec, True, **options).llm.llm_engine
    products = _custom_ops.onednn_mm = FirstProducts(_custom_ops.onednn_mm)
    rng, words = random.Random(1), " ".join(subject.prompts).split()
    asked = answered = 0
    start, next_report = time.monotonic(), EVERY
    while (now := time.monotonic() - start) < 60 * minutes + EVERY:
        while asked - answered < STREAMS and rng.random() < 0.7:
            prompt = " ".join(rng.choice(words) for _ in range(rng.choice([1, 3, 8, 20, 60])))
            length = rng.randrange(2, 60)
            params = SamplingParams(
                temperature=0, max_tokens=length, output_kind=RequestOutputKind.FINAL_ONLY
            )
            engine.add_request(str(asked), prompt, params)
            asked += 1
        answered += sum(output.finished for output in engine.step())
        if now >= next_report:
            next_report += EVERY
            left = sum(products.left.values()) / MIB
            print(
                f"{method} {now:4.0f} s: {answered:6d} answers, heap {in_use() / MIB:9.3f} MiB, of "
                f"which {len(products.left)} first products left {left:8.3f}; the rest "
                f"{in_use() / MIB - left:9.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
