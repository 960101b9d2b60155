"""The counters by head and lag, on vLLM's own base class and a registry of our own."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest
from vllm.v1.spec_decode.metrics import SpecDecodingLogging, SpecDecodingProm, SpecDecodingStats

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.observe.metrics import (
    ACCEPTED,
    COLD,
    DRAFT_SECONDS,
    DRAFTED,
    add_cold_draft,
    add_draft_passes,
    cold_drafts,
    draft_passes,
    with_leap_metrics,
)

LABELS = ["model_name", "engine"]
ENGINES: dict[int, list[object]] = {0: ["m", "0"], 1: ["m", "1"]}


def lmtp_config(num_drafts: int = 4) -> Any:
    return SimpleNamespace(
        method="lmtp", num_speculative_tokens=num_drafts, schedule=LeapSchedule(2, 2)
    )


def make(config: Any) -> tuple[Any, prometheus_client.CollectorRegistry]:
    registry = prometheus_client.CollectorRegistry()

    class Base(SpecDecodingProm):
        _counter_cls = functools.partial(prometheus_client.Counter, registry=registry)

    histogram = functools.partial(prometheus_client.Histogram, registry=registry)
    return with_leap_metrics(Base, histogram)(config, LABELS, ENGINES), registry


def value(registry: Any, name: str, engine: int = 0, **labels: str) -> float | None:
    named = dict(zip(LABELS, map(str, ENGINES[engine]), strict=True))
    return registry.get_sample_value(f"{name}_total", named | labels)


def stats_of(*drafts: tuple[int, int], places: int = 4, cold: int = 0) -> SpecDecodingStats:
    """drafts: (drafted, accepted) of each."""
    stats = SpecDecodingStats.new(places)
    for drafted, accepted in drafts:
        stats.observe_draft(drafted, accepted)
    for _ in range(cold):
        add_cold_draft(stats)
    return stats


def test_places_are_counted_by_head_and_lag() -> None:
    prom, registry = make(lmtp_config())
    prom.observe(stats_of((4, 3), (4, 1), (2, 2), cold=1))
    prom.observe(stats_of((4, 0)))

    places = [("0", "1"), ("0", "0"), ("1", "1"), ("1", "0")]
    drafted = [value(registry, DRAFTED, head=head, lag=lag) for head, lag in places]
    accepted = [value(registry, ACCEPTED, head=head, lag=lag) for head, lag in places]
    assert drafted == [4, 4, 3, 3]
    assert accepted == [3, 2, 1, 0]
    assert value(registry, COLD) == 1


def test_engines_are_counted_apart() -> None:
    prom, registry = make(lmtp_config())
    prom.observe(stats_of((4, 4), cold=2), engine_idx=1)
    assert value(registry, DRAFTED, engine=0, head="0", lag="0") == 0
    assert value(registry, DRAFTED, engine=1, head="0", lag="0") == 1
    assert (value(registry, COLD, engine=0), value(registry, COLD, engine=1)) == (0, 2)


def test_vllms_own_counters_stay_as_they_are() -> None:
    """The number that rides along must show up in none of them."""
    plain_registry = prometheus_client.CollectorRegistry()

    class Plain(SpecDecodingProm):
        _counter_cls = functools.partial(prometheus_client.Counter, registry=plain_registry)

    Plain(lmtp_config(), LABELS, ENGINES).observe(stats_of((4, 3), (2, 1)))
    prom, registry = make(lmtp_config())
    prom.observe(stats_of((4, 3), (2, 1), cold=2))

    for metric in plain_registry.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                assert registry.get_sample_value(sample.name, sample.labels) == sample.value


def test_fewer_drafts_than_the_heads_give_have_fewer_counters() -> None:
    prom, registry = make(lmtp_config(num_drafts=3))
    prom.observe(stats_of((3, 2), places=3, cold=1))
    assert value(registry, DRAFTED, head="1", lag="1") == 1
    assert value(registry, DRAFTED, head="1", lag="0") is None
    assert value(registry, COLD) == 1


@pytest.mark.parametrize(
    "config", [None, SimpleNamespace(method="ngram", num_speculative_tokens=4)]
)
def test_without_lmtp_it_is_its_base(config: Any) -> None:
    prom, registry = make(config)
    prom.observe(stats_of((4, 2)))
    assert not [metric.name for metric in registry.collect() if "lmtp" in metric.name]


def test_diffusion_models_still_get_their_own_counters() -> None:
    registry = prometheus_client.CollectorRegistry()

    class Base(SpecDecodingProm):
        _counter_cls = functools.partial(prometheus_client.Counter, registry=registry)

    prom = with_leap_metrics(Base, prometheus_client.Histogram)
    prom(None, LABELS, ENGINES, is_diffusion=True).observe(stats_of((4, 2)))
    assert value(registry, "vllm:diffusion_num_denoising_steps") == 1


def test_cold_drafts_ride_behind_the_last_place() -> None:
    stats = stats_of((4, 2))
    assert cold_drafts(stats) == 0
    add_cold_draft(stats)
    add_cold_draft(stats)
    assert cold_drafts(stats) == 2
    assert stats.num_draft_tokens_per_pos == [1, 1, 1, 1, 2]


def test_draft_times_ride_along_with_and_without_cold_drafts() -> None:
    """Two passes of 2 and 6 ms are 8 ms in two observations."""
    prom, registry = make(lmtp_config())
    for cold in (0, 1):
        stats = stats_of((4, 2), cold=cold)
        assert draft_passes(stats) == []
        add_draft_passes(stats, [2000 + 4000 * cold])
        assert (cold_drafts(stats), draft_passes(stats)) == (cold, [2000 + 4000 * cold])
        prom.observe(stats)
    named = dict(zip(LABELS, ["m", "0"], strict=True))

    def sample(end: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"{DRAFT_SECONDS}_{end}", named | labels)

    assert sample("count") == 2
    assert sample("sum") == pytest.approx(0.008)
    assert (sample("bucket", le="0.001"), sample("bucket", le="0.0025")) == (0, 1)


def test_drafts_observed_after_a_cold_one_keep_their_places() -> None:
    stats = stats_of(cold=1)
    stats.observe_draft(4, 4)
    assert stats.num_draft_tokens_per_pos == [1, 1, 1, 1, 1]
    assert cold_drafts(stats) == 1


def test_the_number_travels_with_the_stats() -> None:
    sent = stats_of((4, 2), cold=3)
    assert cold_drafts(SpecDecodingStats(**json.loads(json.dumps(asdict(sent))))) == 3


def test_vllms_log_takes_steps_with_and_without_cold_drafts() -> None:
    log = SpecDecodingLogging()
    for stats in (stats_of((4, 2), cold=1), stats_of((4, 2))):
        log.observe(stats)
    lines: list[str] = []
    log.log(log_fn=lambda text, *args: lines.append(text % args if args else text))
    assert len(lines) == 1


def test_the_same_counters_under_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's Ray twin takes the same extension; Ray's names have no colon."""
    from vllm.v1.metrics.ray_wrappers import (
        RayCounterWrapper,
        RayHistogramWrapper,
        RaySpecDecodingProm,
    )

    counted: dict[tuple[str, str, str], float] = {}

    def inc(self: Any, value: float = 1.0) -> None:
        tags = {**self.metric.info["default_tags"], **self._tags}
        key = (self.metric.info["name"], tags.get("head", ""), tags.get("lag", ""))
        counted[key] = counted.get(key, 0) + value

    observed: dict[str, list[float]] = {}

    def observe(self: Any, value: float) -> None:
        observed.setdefault(self.metric.info["name"], []).append(value)

    monkeypatch.setattr(RayCounterWrapper, "inc", inc)
    monkeypatch.setattr(RayHistogramWrapper, "observe", observe)
    extended = with_leap_metrics(RaySpecDecodingProm, RayHistogramWrapper)
    prom = extended(lmtp_config(), LABELS, ENGINES)
    stats = stats_of((4, 3), (4, 0), cold=1)
    add_draft_passes(stats, [1500])
    prom.observe(stats)
    assert observed == {"vllm_lmtp_draft_seconds": [0.0015]}
    assert counted["vllm_lmtp_num_draft_tokens", "0", "1"] == 2
    assert counted["vllm_lmtp_num_accepted_tokens", "1", "1"] == 1
    assert counted["vllm_lmtp_num_accepted_tokens", "1", "0"] == 0
    assert counted["vllm_lmtp_num_cold_drafts", "", ""] == 1
