"""On Model Runner V1, keeps thinking budgets with drafts as plain decoding keeps them."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around

MODULE, HOLDER = "vllm.v1.sample.thinking_budget_state", "ThinkingBudgetStateHolder"


def _update_state(wrapped: Any, holder: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.runner_v1 import budgets, proposer

    def call(output_token_ids: Any, spec_token_ids: Any, repeat_indices: Any = None) -> None:
        budgets.update(wrapped.__func__, holder, output_token_ids, spec_token_ids)

    return (call if proposer.LMTPProposer.in_use else wrapped)(*args, **kwargs)


def _apply_to_logits(wrapped: Any, holder: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.runner_v1 import budgets, proposer

    def call(logits: Any, predict_bonus_token: bool, spec_token_ids: Any) -> Any:
        return budgets.apply(wrapped.__func__, holder, logits, predict_bonus_token, spec_token_ids)

    return (call if proposer.LMTPProposer.in_use else wrapped)(*args, **kwargs)


PATCH = Patch(
    name="thinking_budget",
    why="vLLM looks for a beginning of thinking in the tokens of earlier steps. Where it comes "
    "as a draft, the drafts behind it are not held to the budget, with every speculative method. "
    "And its rows are counted as those of drafts once there is a method, also in a step that the "
    "patch `no_drafts` has sampled as in plain decoding: all ends were forced on the first request "
    "there. Here vLLM's own states are taken through a request's tokens, and then its drafts, one "
    "by one, as in plain decoding.",
    bindings=(
        Binding(MODULE, f"{HOLDER}.update_state", around(_update_state)),
        Binding(MODULE, f"{HOLDER}.apply_to_logits", around(_apply_to_logits)),
    ),
    written_against="vllm/v1/sample/thinking_budget_state.py, vllm/v1/sample/sampler.py, "
    "vllm/v1/sample/rejection_sampler.py, apply_logits_processors (0.32.0, 0.33.0)",
    upstream="not reported yet; seen on 0.32.0 with ngram as well",
    remove_when="a budget ends at the same token with drafts and without, or V1 is gone",
)
