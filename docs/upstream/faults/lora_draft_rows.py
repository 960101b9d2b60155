"""Model Runner V2 tells LoRA of one row of logits a request, with drafts too.

Verification has 1 + drafts rows of each request. On CPUs without Triton the engine stops, where
`lm_head` may have an adapter; on GPUs the rows beyond the first ones read whatever the mapping held
before. V1 counts the rows (`num_sampled_tokens`). Prints both for two requests. Run on 0.32.0.
"""

from __future__ import annotations

import os

os.environ["VLLM_PLUGINS"] = ""  # without any plugin

import numpy as np
from vllm.lora.request import LoRARequest
from vllm.v1.worker.gpu.lora_utils import LoraState


def main() -> None:
    state = LoraState(max_num_reqs=2)
    state.add_request("first", 0, LoRARequest("a", 1, "/a"))
    state.add_request("second", 1, None)
    scheduled = np.array([4, 4])  # each one token and three drafts
    of_logits, of_tokens, _ = state.make_lora_inputs(["first", "second"], np.arange(2), scheduled)
    print(f"rows of the model: {len(of_tokens)}, with adapters {[int(i) for i in of_tokens]}")
    print(f"rows of logits:    {len(of_logits)}, with adapters {[int(i) for i in of_logits]}")
    print(f"expected of both:  {scheduled.sum()}")


if __name__ == "__main__":
    main()
