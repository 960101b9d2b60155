"""On CPUs a request without a LoRA adapter gets that of the last place.

vLLM marks "no adapter" by the index -1, and the CPU kernels index the stack of adapters with it.
Only a place that was never used, whose matrices are zeros, hides it. Prints what the kernel adds
for a request with the adapter of place 0, and for one with none. Run on 0.32.0.
"""

from __future__ import annotations

import os

os.environ["VLLM_PLUGINS"] = ""  # without any plugin

import torch
from vllm.lora.ops.torch_ops import bgmv_expand, bgmv_shrink


def main() -> None:
    places, rank, size = 2, 1, 4
    first = torch.ones(places, 1, rank, size)  # [places, 1, rank, inputs]
    second = torch.stack([torch.full((1, size, rank), 1.0), torch.full((1, size, rank), 10.0)])
    rows, added = torch.ones(2, size), torch.zeros(2, size)
    indices = torch.tensor([0, -1])
    reduced = torch.zeros(2, rank)
    bgmv_shrink(rows, first, reduced, indices)
    bgmv_expand(reduced, second, added, indices, add_inputs=True)
    print(f"with the adapter of place 0: {added[0].tolist()}")
    print(f"without one:                 {added[1].tolist()}, expected {[0.0] * size}")


if __name__ == "__main__":
    main()
