"""On Model Runner V2, log-probabilities of tokens that a request names, in steps with drafts."""

from __future__ import annotations

from typing import Any

from vllm_lmtp import METHOD
from vllm_lmtp.patches.record import Binding, Patch, around

MODULE = "vllm.v1.worker.gpu.spec_decode.rejection_sampler"
NAMED = "lmtp_named"


def _init(wrapped: Any, verifier: Any, args: Any, kwargs: Any) -> None:
    wrapped(*args, **kwargs)
    verifier.lmtp_in_use = (kwargs.get("spec_config") or args[1]).method == METHOD


def _call(wrapped: Any, verifier: Any, args: Any, kwargs: Any) -> Any:
    if verifier.lmtp_in_use:
        batch = kwargs.get("input_batch") or args[1]
        # Rows are scored in parts, in their order.
        verifier.lmtp_rows = batch.expanded_idx_mapping
        verifier.lmtp_dims = verifier.sampler.get_logprobs_dims(batch.idx_mapping_np)
    return wrapped(*args, **kwargs)


def _scored(wrapped: Any, verifier: Any, args: Any, kwargs: Any) -> Any:
    if not verifier.lmtp_in_use or not verifier.lmtp_dims or not verifier.lmtp_dims[1]:
        return wrapped(*args, **kwargs)
    logits, (most, tokens) = args[2], verifier.lmtp_dims
    rows, verifier.lmtp_rows = verifier.lmtp_rows.tensor_split([len(logits)])
    setattr(logits, NAMED, (verifier.sampler.logprob_token_ids_state, rows, tokens))
    return wrapped(*args[:-1], most, **kwargs)


def _scores(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, *getattr(args[0], NAMED, ()), **kwargs)


PATCH = Patch(
    name="token_logprobs_v2",
    why="V2 forgets `logprob_token_ids` in a step in which any request has drafts: the answer has "
    "the log-probabilities of the other steps alone, with every speculative method.",
    bindings=(
        Binding(MODULE, "RejectionSampler.__init__", around(_init)),
        Binding(MODULE, "RejectionSampler.__call__", around(_call)),
        Binding(MODULE, "RejectionSampler._get_logprobs_tensors", around(_scored)),
        Binding(MODULE, "compute_topk_scores", around(_scores)),
    ),
    written_against="vllm/v1/worker/gpu/spec_decode/rejection_sampler.py, "
    "vllm/v1/worker/gpu/sample/sampler.py, Sampler.get_logprobs_dims, and "
    "vllm/v1/worker/gpu/sample/logprob.py, compute_topk_scores (0.32.0, 0.33.0)",
    upstream="not reported yet",
    remove_when="RejectionSampler asks for the tokens that requests name, as Sampler does",
)
