"""A head's product with the matrix in float32, bfloat16 and int8, on a CPU: milliseconds.

    python docs/results/cost/int8_product.py OUTPUT.json

int8 is vLLM's own kernel (oneDNN; the states are quantised at each call), packed as vLLM packs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from vllm import _custom_ops as ops

INPUTS, OUTPUTS = 576, 16384
ROWS = (1, 2, 4, 8, 16, 64)
ROUNDS = 40


def product(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = torch.randn(OUTPUTS, INPUTS)
    if dtype == torch.int8:
        scales = weight.abs().amax(1) / 127
        whole = (weight / scales[:, None]).round().to(torch.int8)
        handler = ops.create_onednn_scaled_mm(
            whole.t(), scales.float(), torch.float32, dynamic_quant=True, use_azp=False
        )

        def multiply(rows: torch.Tensor) -> torch.Tensor:
            quantised, scale, _ = ops.onednn_scaled_int8_quant(rows)
            output = torch.empty(len(rows), OUTPUTS)
            return ops.onednn_scaled_mm(handler, quantised, output, scale, None, None, None)

        return multiply
    handler = ops.create_onednn_mm(weight.to(dtype).t())
    return lambda rows: ops.onednn_mm(handler, rows.to(dtype), None)


def main() -> None:
    torch.manual_seed(0)
    products = {str(d).removeprefix("torch."): product(d) for d in (
        torch.float32, torch.bfloat16, torch.int8)}  # fmt: skip
    found: dict[str, dict[str, float]] = {name: {} for name in products}
    # Other work between two products of one matrix, as between two drafts: 64 MB of it.
    other = torch.randn(16 << 20)
    for count in ROWS:
        rows = torch.randn(count, INPUTS)
        times: dict[str, list[float]] = {name: [] for name in products}
        for _ in range(ROUNDS):
            for name, multiply in products.items():
                other.add_(1.0)
                start = time.perf_counter()
                multiply(rows)
                times[name].append(1e3 * (time.perf_counter() - start))
        for name, taken in times.items():
            found[name][str(count)] = round(statistics.median(taken), 3)
    facts = {
        "command": "python docs/results/cost/int8_product.py " + sys.argv[1],
        "versions": {"torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "matrix": [OUTPUTS, INPUTS],
        "milliseconds": found,
    }
    with open(sys.argv[1], "w") as file:
        json.dump(facts, file, indent=1)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
