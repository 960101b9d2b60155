"""On Model Runner V1, log-probabilities of tokens that a request names, in steps with drafts."""

from __future__ import annotations

import dataclasses
from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around


def _forward(wrapped: Any, verifier: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.runner_v1.proposer import LMTPProposer

    def call(metadata: Any, draft_probs: Any, logits: Any, sampling_metadata: Any) -> Any:
        named = sampling_metadata.logprob_token_ids
        if not named or not LMTPProposer.in_use:
            return wrapped(metadata, draft_probs, logits, sampling_metadata)
        sampler, width = verifier.sampler, metadata.max_spec_len + 1
        places = {
            index * width + place: ids for index, ids in named.items() for place in range(width)
        }

        def gather(logprobs: Any, _: int, tokens: Any) -> Any:
            return sampler.gather_specific_token_logprobs(logprobs, places, tokens)

        sampler.gather_logprobs = gather
        wanted = sampling_metadata.max_num_logprobs or 0
        asked = dataclasses.replace(
            sampling_metadata, max_num_logprobs=wanted, logprob_token_ids=None
        )
        try:
            return wrapped(metadata, draft_probs, logits, asked)
        finally:
            del sampler.gather_logprobs

    return call(*args, **kwargs)


PATCH = Patch(
    name="token_logprobs_v1",
    why="V1 forgets `logprob_token_ids` in a step in which any request has drafts: its answer has "
    "the log-probabilities of the other steps alone. Beside a request with `logprobs` the engine "
    "stops. Plain decoding and every other speculative method's steps without drafts are right.",
    bindings=(
        Binding("vllm.v1.sample.rejection_sampler", "RejectionSampler.forward", around(_forward)),
    ),
    written_against="vllm/v1/sample/rejection_sampler.py, RejectionSampler.forward and "
    "_get_logprobs_tensors; vllm/v1/sample/sampler.py (0.32.0, 0.33.0)",
    upstream="not reported yet; seen on 0.32.0 with ngram as well",
    remove_when="RejectionSampler gathers the tokens that requests name, or V1 is gone",
)
