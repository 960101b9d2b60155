"""vLLM does not see a request begin to think among its drafts, so its budget ends late.

Token 7 begins to think, 8 ends it, and the budget is 0: 8 must follow 7 at once. Prints behind
which of the tokens of a draft vLLM forces it when 7 is drafted with others, and when it is there
already. Model Runner V1; run on 0.32.0.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

os.environ["VLLM_PLUGINS"] = ""  # without any plugin

import torch
from vllm.v1.sample.thinking_budget_state import ThinkingBudgetStateHolder

CONFIG = SimpleNamespace(reasoning_start_token_ids=[7], reasoning_end_token_ids=[8])


def forced(output: list[int], draft: list[int]) -> list[int]:
    """Places of the draft at which the end is forced, as the rejection sampler asks for them."""
    holder = ThinkingBudgetStateHolder(CONFIG, 1, len(draft), torch.device("cpu"), False)
    holder._state[0] = holder._init_state_entry([1], 0)
    holder.update_state([output], [draft])
    holder.apply_to_logits(torch.zeros(1, 10), True, [draft])  # of the token behind the draft
    rows = holder.apply_to_logits(torch.zeros(len(draft), 10), False, [draft])
    return (rows[:, 8] > 0).nonzero().flatten().tolist()


def main() -> None:
    print(f"drafted 7, 3, 3: forced at {forced([3], [7, 3, 3])}, expected [1]")
    print(f"drafted 3, 3, 3 behind 7: forced at {forced([7], [3, 3, 3])}, expected [0]")


if __name__ == "__main__":
    main()
