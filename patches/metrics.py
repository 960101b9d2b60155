"""Exports acceptance by head and by lag, to Prometheus and to Ray."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.patches.record import Binding, Patch


def _with_leap_counters(prometheus_class: Any) -> Any:
    from vllm_lmtp.metrics import with_leap_counters

    return with_leap_counters(prometheus_class)


PATCH = Patch(
    name="metrics",
    why="vLLM counts acceptance by position only, and its counters for speculation cannot be "
    "extended from outside.",
    bindings=(
        Binding(
            "vllm.v1.metrics.loggers",
            "PrometheusStatLogger._spec_decoding_cls",
            _with_leap_counters,
        ),
        Binding(
            "vllm.v1.metrics.ray_wrappers",
            "RayPrometheusStatLogger._spec_decoding_cls",
            _with_leap_counters,
        ),
    ),
    written_against="vllm/v1/metrics/loggers.py, vllm/v1/metrics/ray_wrappers.py (0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/19993 (more detail on speculation)",
    remove_when="vLLM lets a proposer export counters of its own",
)
