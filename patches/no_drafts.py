"""On Model Runner V1, a step without any draft is sampled as plain decoding samples it."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around


def _sample(wrapped: Any, runner: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.proposer import LMTPProposer

    def call(logits: Any, spec_decode_metadata: Any) -> Any:
        drafted = spec_decode_metadata is not None and any(spec_decode_metadata.num_draft_tokens)
        ours = isinstance(getattr(runner, "drafter", None), LMTPProposer)
        return wrapped(logits, None if ours and not drafted else spec_decode_metadata)

    return call(*args, **kwargs)


PATCH = Patch(
    name="no_drafts",
    why="Once there is a speculative config, V1 samples every step through the rejection sampler, "
    "which copies the logits and launches its kernels for nothing where a schedule wants no "
    "drafts. On CPUs top-k in such a step, which the first one is too, takes the maximum of "
    "nothing and stops the engine.",
    bindings=(
        Binding("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._sample", around(_sample)),
    ),
    written_against="vllm/v1/worker/gpu_model_runner.py, GPUModelRunner._sample (0.32.0)",
    upstream="not reported yet; seen on 0.32.0 with ngram as well",
    remove_when="_sample leaves steps without drafts to the sampler, or V1 is gone",
)
