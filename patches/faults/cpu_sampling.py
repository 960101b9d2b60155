"""Mends sampling with drafts on vLLM's CPU backend, while lmtp is in use."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around


def _expand(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> None:
    from vllm_lmtp.runner_v1.proposer import LMTPProposer

    if not LMTPProposer.in_use:
        wrapped(*args, **kwargs)
        return
    output, values, ends, replace_from, replace_to = args[:5]
    counts = ends.diff(prepend=ends.new_zeros(1))
    replaced = values.masked_fill(values == replace_from, replace_to)
    output.copy_(replaced.repeat_interleave(counts))


PATCH = Patch(
    name="cpu_sampling",
    why="With drafts and temperature > 0, vLLM's CPU backend spreads each request's temperature, "
    "top-k and top-p over its draft rows into an int64 copy that is then thrown away, so logits "
    "are divided by uninitialised memory: the output is wrong with every speculative method.",
    bindings=(Binding("vllm.utils.cpu_triton_utils", "_expand_kernel_impl", around(_expand)),),
    written_against="vllm/utils/cpu_triton_utils.py, _expand_kernel_impl (0.32.0, 0.33.0)",
    upstream="not reported yet; seen on 0.32.0 with ngram as well",
    remove_when="_expand_kernel_impl writes its result back",
)
