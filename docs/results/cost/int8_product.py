"""A head's product with the matrix in float32, bfloat16 and int8, on a CPU: milliseconds.

    python docs/results/cost/int8_product.py OUTPUT.json

float32 and bfloat16 as vLLM packs and multiplies them, int8 as heads are served (cpu_int8.py), and
as vLLM serves int8 matrices, whose rows are rounded once.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from vllm import _custom_ops as ops

from vllm_lmtp.formats.int8 import quantise_rows
from vllm_lmtp.worker.cpu_int8 import Int8Product

INPUTS, OUTPUTS = 576, 16384
ROWS = (1, 2, 4, 8, 16, 64)
ROUNDS = 40


Product = Callable[[torch.Tensor], torch.Tensor]


def packed(dtype: torch.dtype) -> Product:
    handler = ops.create_onednn_mm(torch.randn(OUTPUTS, INPUTS).to(dtype).t())
    return lambda rows: ops.onednn_mm(handler, rows.to(dtype), None)


def rounded_once() -> Product:
    values, scales = quantise_rows(torch.randn(OUTPUTS, INPUTS))
    handler = ops.create_onednn_scaled_mm(
        values.t(), scales, torch.float32, dynamic_quant=True, use_azp=False
    )

    def multiply(rows: torch.Tensor) -> torch.Tensor:
        assert len(scales) == OUTPUTS  # kept, since the kernel reads them
        quantised, scale, _ = ops.onednn_scaled_int8_quant(rows)
        output = torch.empty(len(rows), OUTPUTS)
        return ops.onednn_scaled_mm(handler, quantised, output, scale, None, None, None)

    return multiply


def main() -> None:
    torch.manual_seed(0)
    products: dict[str, Product] = {
        "float32": packed(torch.float32),
        "bfloat16": packed(torch.bfloat16),
        "int8": Int8Product(*quantise_rows(torch.randn(OUTPUTS, INPUTS))),
        "int8, rounded once": rounded_once(),
    }
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
