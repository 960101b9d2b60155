"""Exports acceptance by head, lag and source, cold drafts and draft times; logs what was copied."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch, around

LOGGING = "vllm.v1.spec_decode.metrics"


def _for_prometheus(prometheus_class: Any) -> Any:
    from prometheus_client import Histogram

    from vllm_lmtp.observe.metrics import with_leap_metrics

    return with_leap_metrics(prometheus_class, Histogram)


def _for_ray(prometheus_class: Any) -> Any:
    from vllm.v1.metrics.ray_wrappers import RayHistogramWrapper

    from vllm_lmtp.observe.metrics import with_leap_metrics

    return with_leap_metrics(prometheus_class, RayHistogramWrapper)


def _observe(wrapped: Any, logging: Any, args: Any, kwargs: Any) -> Any:
    from vllm_lmtp.observe.log_line import note

    note(logging, kwargs.get("spec_decoding_stats") or args[0])
    return wrapped(*args, **kwargs)


def _log(wrapped: Any, logging: Any, args: Any, kwargs: Any) -> Any:
    from vllm.logger import init_logger

    from vllm_lmtp.observe.log_line import log

    log(logging, kwargs.get("log_fn") or (args[0] if args else init_logger("vllm.lmtp").info))
    return wrapped(*args, **kwargs)


PATCH = Patch(
    name="metrics",
    why="vLLM counts acceptance by position only, and neither its counters for speculation nor its "
    "line in the log can be extended from outside.",
    bindings=(
        Binding(
            "vllm.v1.metrics.loggers",
            "PrometheusStatLogger._spec_decoding_cls",
            _for_prometheus,
        ),
        Binding(
            "vllm.v1.metrics.ray_wrappers",
            "RayPrometheusStatLogger._spec_decoding_cls",
            _for_ray,
        ),
        Binding(LOGGING, "SpecDecodingLogging.observe", around(_observe)),
        Binding(LOGGING, "SpecDecodingLogging.log", around(_log)),
    ),
    written_against="vllm/v1/metrics/loggers.py, vllm/v1/metrics/ray_wrappers.py, "
    "vllm/v1/spec_decode/metrics.py (0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/19993 (more detail on speculation)",
    remove_when="vLLM lets a proposer export counters of its own",
)
