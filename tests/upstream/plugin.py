"""The plugin as it would be where vLLM has the registry of docs/upstream/registry.diff.

It registers lmtp there and leaves out the patches that this makes unnecessary. Only the tests load
it, in place of `vllm_lmtp.plugin`, into a copy of vLLM that has the diff.
"""

from __future__ import annotations

from typing import Any

from vllm_lmtp import METHOD

UNNECESSARY = frozenset(
    {"async_scheduling", "cli_args", "metrics", "runner_v2", "speculative_config"}
)
"""Names of patches, as in the first table of docs/upstream/README.md."""


def register() -> None:
    """vLLM's entry point; called in every process."""
    from vllm.v1.spec_decode.registry import SpecDecodeMethod, register_spec_decode_method

    from vllm_lmtp import patches
    from vllm_lmtp.compat import vllm_version

    patches.PATCHES = tuple(p for p in patches.PATCHES if p.name not in UNNECESSARY)
    patches.apply(vllm_version())
    method = SpecDecodeMethod(make_config, make_speculator, True, make_metrics)
    register_spec_decode_method(METHOD, method)


def make_config(engine_args: Any, fields: dict[str, Any]) -> Any:
    """What `vllm_lmtp.config.requested.create_config` does by changing a name in vLLM."""
    from pydantic import ValidationError

    from vllm_lmtp.config.requested import ENGINE_ARGS
    from vllm_lmtp.config.spec_config import LMTPSpeculativeConfig, as_lmtp_error, runner_in_use

    if runner_in_use() == 1 and engine_args.async_scheduling is None:
        engine_args.async_scheduling = False
    ours = {"lmtp_engine_args": {name: getattr(engine_args, name, None) for name in ENGINE_ARGS}}
    try:
        return LMTPSpeculativeConfig(**fields, **ours)
    except ValidationError as error:
        raise as_lmtp_error(error) from None


def make_speculator(vllm_config: Any, device: Any, req_states: Any) -> Any:
    from vllm_lmtp.runner_v2.speculator import LMTPSpeculator

    return LMTPSpeculator(vllm_config, device, req_states)


def make_metrics(prometheus_class: Any, histogram_class: Any, gauge_class: Any) -> Any:
    from vllm_lmtp.observe.metrics import with_leap_metrics

    return with_leap_metrics(prometheus_class, histogram_class, gauge_class)
