"""On Model Runner V1, a step without any draft costs and samples as in plain decoding."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around

RUNNER = "vllm.v1.worker.gpu_model_runner"


def _drafter(runner: Any) -> Any:
    from vllm_lmtp.runner_v1.proposer import LMTPProposer

    drafter = getattr(runner, "drafter", None)  # earlier pipeline ranks have none
    return drafter if isinstance(drafter, LMTPProposer) else None


def _describe(wrapped: Any, runner: Any, args: Any, kwargs: Any) -> Any:
    def call(num_draft_tokens: Any, cu_num_scheduled_tokens: Any) -> Any:
        num_reqs, drafter = len(num_draft_tokens), _drafter(runner)
        one_each = cu_num_scheduled_tokens[-1] == num_reqs  # so no drafts either
        if drafter is None or not one_each:
            return wrapped(num_draft_tokens, cu_num_scheduled_tokens)
        if num_reqs not in drafter.undrafted:
            drafter.undrafted[num_reqs] = wrapped(num_draft_tokens, cu_num_scheduled_tokens)
        return drafter.undrafted[num_reqs]

    return call(*args, **kwargs)


def _sample(wrapped: Any, runner: Any, args: Any, kwargs: Any) -> Any:
    def call(logits: Any, spec_decode_metadata: Any) -> Any:
        drafted = spec_decode_metadata is not None and any(spec_decode_metadata.num_draft_tokens)
        return wrapped(logits, spec_decode_metadata if drafted or not _drafter(runner) else None)

    return call(*args, **kwargs)


PATCH = Patch(
    name="no_drafts",
    why="Once there is a speculative config, V1 samples every step through the rejection sampler, "
    "which copies the logits and launches its kernels for nothing where a schedule wants no "
    "drafts; and it computes anew what tells drafts from tokens, which is the same in every step "
    "of one token a request. On CPUs top-k in such a step, which the first one is too, takes the "
    "maximum of nothing and stops the engine.",
    bindings=(
        Binding(RUNNER, "GPUModelRunner._calc_spec_decode_metadata", around(_describe)),
        Binding(RUNNER, "GPUModelRunner._sample", around(_sample)),
    ),
    written_against="vllm/v1/worker/gpu_model_runner.py, GPUModelRunner._sample and "
    "_calc_spec_decode_metadata (0.32.0)",
    upstream="not reported yet; seen on 0.32.0 with ngram as well",
    remove_when="_sample leaves steps without drafts to the sampler, or V1 is gone",
)
