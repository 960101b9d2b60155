"""The changes made to vLLM, and the one function that makes them.

Nothing here runs on import. `apply` may be called any number of times, in any process; each binding
is changed once, when vLLM imports its module.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import wrapt

from vllm_lmtp.compat import SUPPORTED_VLLM, is_supported
from vllm_lmtp.patches import (
    async_scheduling,
    cli_args,
    draft_reports,
    draft_tokens,
    load_weights,
    log_line,
    metrics,
    model_config,
    no_drafts,
    ray_cpu,
    request_bounds,
    runner_v1,
    runner_v2,
    scheduler,
    served_alone,
    speculative_config,
)
from vllm_lmtp.patches.faults import (
    cpu_sampling,
    generation_tokens,
    input_in_parts,
    thinking_budget,
    token_logprobs_v1,
    token_logprobs_v2,
)
from vllm_lmtp.patches.record import Binding, Patch

__all__ = ["PATCHES", "SUPPORTED_VLLM", "Binding", "Patch", "applied", "apply"]

logger = logging.getLogger(__name__)

PATCHES: tuple[Patch, ...] = (
    cli_args.PATCH,
    speculative_config.PATCH,
    served_alone.PATCH,
    model_config.PATCH,
    async_scheduling.PATCH,
    load_weights.PATCH,
    runner_v1.PATCH,
    runner_v2.PATCH,
    no_drafts.PATCH,
    cpu_sampling.PATCH,
    thinking_budget.PATCH,
    token_logprobs_v1.PATCH,
    token_logprobs_v2.PATCH,
    input_in_parts.PATCH,
    generation_tokens.PATCH,
    metrics.PATCH,
    log_line.PATCH,
    scheduler.PATCH,
    request_bounds.PATCH,
    draft_reports.PATCH,
    draft_tokens.PATCH,
    ray_cpu.PATCH,
)

_registered: set[Binding] = set()
_applied: set[Binding] = set()


def apply(vllm_version: str) -> None:
    """Register every patch that applies to `vllm_version` (such as "0.32.0+cpu").

    On an unsupported version only the patches that can refuse it are registered, so vLLM stays as
    it is until lmtp is asked for.
    """
    for patch in PATCHES:
        if patch.vllm is not None and not is_supported(vllm_version, patch.vllm):
            continue
        for binding in patch.bindings:
            if binding not in _registered:
                _registered.add(binding)
                wrapt.register_post_import_hook(_changer(binding), binding.module)


def applied(binding: Binding) -> bool:
    """Whether the binding has been changed; False while vLLM has not imported its module."""
    return binding in _applied


def _changer(binding: Binding) -> Callable[[object], None]:
    def change(module: object) -> None:
        parent, name, original = wrapt.resolve_path(module, binding.attribute)
        setattr(parent, name, binding.change(original))
        _applied.add(binding)
        logger.debug("vllm-lmtp changed %s", binding)

    return change
