"""Exports acceptance by head, lag and source, cold drafts and draft times: Prometheus and Ray."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch


def _for_prometheus(prometheus_class: Any) -> Any:
    from prometheus_client import Gauge, Histogram

    from vllm_lmtp.observe.metrics import with_leap_metrics

    return with_leap_metrics(prometheus_class, Histogram, Gauge)


def _for_ray(prometheus_class: Any) -> Any:
    from vllm.v1.metrics.ray_wrappers import RayGaugeWrapper, RayHistogramWrapper

    from vllm_lmtp.observe.metrics import with_leap_metrics

    return with_leap_metrics(prometheus_class, RayHistogramWrapper, RayGaugeWrapper)


PATCH = Patch(
    name="metrics",
    why="vLLM counts acceptance by position only, and its counters for speculation cannot be "
    "extended from outside.",
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
    ),
    written_against="vllm/v1/metrics/loggers.py, vllm/v1/metrics/ray_wrappers.py (0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/19993 (more detail on speculation)",
    remove_when="vLLM lets a proposer export counters of its own",
)
