"""vLLM's CPU stand-in for `expand_kernel` throws away what it computed for float32 and int32.

Rejection sampling spreads each request's temperature, top-k and top-p over its draft rows with it.
Prints what came out, and what should have. Needs a CPU build of vLLM; run on 0.32.0.
"""

from __future__ import annotations

import os

os.environ["VLLM_PLUGINS"] = ""  # without any plugin

import torch
from vllm.platforms import current_platform
from vllm.utils.cpu_triton_utils import _expand_kernel_impl


def main() -> None:
    current_platform.import_kernels()
    ends = torch.tensor([2, 5], dtype=torch.int32)  # two requests, of two and three drafts
    for dtype in (torch.float32, torch.int32, torch.int64):
        values = torch.tensor([3, 7], dtype=dtype)
        output = torch.full((5,), -1, dtype=dtype)  # vLLM passes uninitialised memory
        _expand_kernel_impl(output, values, ends, 0, 1)
        right = values.repeat_interleave(torch.tensor([2, 3]))
        print(f"{dtype}: got {output.tolist()}, expected {right.tolist()}")


if __name__ == "__main__":
    main()
