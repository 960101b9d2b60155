"""Logs what drafts copied and how long they are, beside vLLM's own line on speculation."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around

LOGGING = "vllm.v1.spec_decode.metrics"


def _observe(wrapped: Any, logging: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.observe.log_line import note

    stats = kwargs.get("spec_decoding_stats") or args[0]
    note(logging, stats)
    # What was sent without any draft must not have vLLM divide by their number.
    return wrapped(*args, **kwargs) if stats.num_drafts else None


def _log(wrapped: Any, logging: Any, args: Any, kwargs: Any) -> Any:
    from vllm.logger import init_logger

    from vllm_lmtp.observe.log_line import log

    log(logging, kwargs.get("log_fn") or (args[0] if args else init_logger("vllm.lmtp").info))
    return wrapped(*args, **kwargs)


PATCH = Patch(
    name="log_line",
    why="vLLM's line on speculation in the log cannot be extended from outside.",
    bindings=(
        Binding(LOGGING, "SpecDecodingLogging.observe", around(_observe)),
        Binding(LOGGING, "SpecDecodingLogging.log", around(_log)),
    ),
    written_against="vllm/v1/spec_decode/metrics.py (0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/19993 (more detail on speculation)",
    remove_when="vLLM lets a proposer log numbers of its own",
)
