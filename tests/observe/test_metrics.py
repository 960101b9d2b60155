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
from vllm_lmtp.observe.carried import (
    LengthReport,
    SizeInUse,
    add_cold_draft,
    add_copied_tokens,
    add_draft_passes,
    add_length_report,
    cold_drafts,
    copied_tokens,
    draft_passes,
    length_report,
)
from vllm_lmtp.observe.metrics import (
    ACCEPTED,
    ACCEPTED_BY_SOURCE,
    COLD,
    DRAFT_SECONDS,
    DRAFTED,
    DRAFTED_BY_SOURCE,
    GAIN,
    LENGTH,
    STEPS,
    with_leap_metrics,
)

LABELS = ["model_name", "engine"]
ENGINES: dict[int, list[object]] = {0: ["m", "0"], 1: ["m", "1"]}


def lmtp_config(num_drafts: int = 4, draft_length: str = "auto") -> Any:
    return SimpleNamespace(
        method="lmtp",
        num_speculative_tokens=num_drafts,
        schedule=LeapSchedule(2, 2),
        lmtp_draft_length=draft_length,
        num_speculative_tokens_per_batch_size=[(1, 1, 0)],
        draft_choices=(0, -4, 2, 4),
    )


def make(config: Any) -> tuple[Any, prometheus_client.CollectorRegistry]:
    registry = prometheus_client.CollectorRegistry()

    class Base(SpecDecodingProm):
        _counter_cls = functools.partial(prometheus_client.Counter, registry=registry)

    histogram = functools.partial(prometheus_client.Histogram, registry=registry)
    gauge = functools.partial(prometheus_client.Gauge, registry=registry)
    return with_leap_metrics(Base, histogram, gauge)(config, LABELS, ENGINES), registry


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


def by_source(registry: Any, engine: int = 0) -> dict[str, list[float | None]]:
    """Draft and accepted tokens of each source."""
    return {
        source: [
            value(registry, name, engine, source=source)
            for name in (DRAFTED_BY_SOURCE, ACCEPTED_BY_SOURCE)
        ]
        for source in ("head", "copy")
    }


def test_tokens_are_counted_by_source() -> None:
    """Sources together are what vLLM counts, whether a step says anything of them or not."""
    prom, registry = make(lmtp_config())
    assert by_source(registry) == {"head": [0, 0], "copy": [0, 0]}
    steps = [stats_of((4, 3), (2, 1)), stats_of((4, 4), cold=1), stats_of((3, 2))]
    add_copied_tokens(steps[0], 3, 2)
    add_copied_tokens(steps[0], 2, 1)
    add_copied_tokens(steps[1], 4, 4)
    for number, step in enumerate(steps):
        prom.observe(step, engine_idx=int(number == 1))
    assert by_source(registry, engine=0) == {"head": [4, 3], "copy": [5, 3]}
    assert by_source(registry, engine=1) == {"head": [0, 0], "copy": [4, 4]}
    for engine in ENGINES:
        for place, name in enumerate(("num_draft_tokens", "num_accepted_tokens")):
            total = value(registry, f"vllm:spec_decode_{name}", engine)
            assert total == sum(counts[place] for counts in by_source(registry, engine).values())


def test_engines_are_counted_apart() -> None:
    prom, registry = make(lmtp_config())
    prom.observe(stats_of((4, 4), cold=2), engine_idx=1)
    assert value(registry, DRAFTED, engine=0, head="0", lag="0") == 0
    assert value(registry, DRAFTED, engine=1, head="0", lag="0") == 1
    assert (value(registry, COLD, engine=0), value(registry, COLD, engine=1)) == (0, 2)


def test_vllms_own_counters_stay_as_they_are() -> None:
    """The numbers that ride along must show up in none of them."""
    plain_registry = prometheus_client.CollectorRegistry()

    class Plain(SpecDecodingProm):
        _counter_cls = functools.partial(prometheus_client.Counter, registry=plain_registry)

    Plain(lmtp_config(), LABELS, ENGINES).observe(stats_of((4, 3), (2, 1)))
    prom, registry = make(lmtp_config())
    ours = stats_of((4, 3), (2, 1), cold=2)
    add_copied_tokens(ours, 4, 2)
    add_draft_passes(ours, [700])
    prom.observe(ours)

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

    prom = with_leap_metrics(Base, prometheus_client.Histogram, prometheus_client.Gauge)
    prom(None, LABELS, ENGINES, is_diffusion=True).observe(stats_of((4, 2)))
    assert value(registry, "vllm:diffusion_num_denoising_steps") == 1


def test_cold_drafts_ride_behind_the_last_place() -> None:
    stats = stats_of((4, 2))
    assert cold_drafts(stats) == 0
    add_cold_draft(stats)
    add_cold_draft(stats)
    assert cold_drafts(stats) == 2
    assert stats.num_draft_tokens_per_pos == [1, 1, 1, 1, 2, 0, 0, 0, 0]


def test_copied_tokens_ride_along_beside_all_else() -> None:
    stats = stats_of((4, 2))
    assert copied_tokens(stats) == (0, 0)
    add_copied_tokens(stats, 3, 1)
    add_draft_passes(stats, [2000])
    add_cold_draft(stats)
    add_copied_tokens(stats, 4, 2)
    stats.observe_draft(4, 4)
    assert (cold_drafts(stats), copied_tokens(stats), draft_passes(stats)) == (1, (7, 3), [2000])
    assert stats.num_draft_tokens_per_pos[:4] == [2, 2, 2, 2]


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


def test_draft_lengths_are_shown_by_the_size_of_the_batch() -> None:
    prom, registry = make(lmtp_config())
    for length in (4, 2):
        stats = SpecDecodingStats.new(4)
        sizes = [SizeInUse(1, length, 1300), SizeInUse(8, 0, 1000)]
        add_length_report(stats, LengthReport({0: 5, length: 7}, sizes))
        prom.observe(stats, engine_idx=1)
    named = dict(zip(LABELS, ["m", "1"], strict=True))

    def gauge(name: str, most: int) -> float | None:
        return registry.get_sample_value(name, named | {"batch_size": str(most)})

    assert [gauge(LENGTH, most) for most in (1, 8)] == [2, 0]
    assert [gauge(GAIN, most) for most in (1, 8)] == [1.3, 1.0]
    lengths = ("0", "-4", "2", "4")
    steps = [value(registry, STEPS, 1, draft_length=length) for length in lengths]
    assert steps == [10, 0, 7, 7]
    assert value(registry, STEPS, 0, draft_length="0") == 0  # shown before anything is reported


def test_a_fixed_length_is_not_shown() -> None:
    prom, registry = make(lmtp_config(draft_length="fixed"))
    prom.observe(stats_of((4, 2)))
    assert not [m.name for m in registry.collect() if m.name in (STEPS, LENGTH, GAIN)]


def test_a_report_rides_behind_all_else() -> None:
    stats = stats_of((4, 2), cold=1)
    assert length_report(stats) is None
    add_draft_passes(stats, [2000])
    report = LengthReport({0: 3, 6: 1}, [SizeInUse(4, 6, 990)])
    add_length_report(stats, LengthReport({0: 1}, []))
    add_length_report(stats, report)
    add_draft_passes(stats, [3000, 4000])
    add_copied_tokens(stats, 3, 1)
    received = SpecDecodingStats(**json.loads(json.dumps(asdict(stats))))
    assert length_report(received) == report
    assert draft_passes(received) == [2000, 3000, 4000]
    assert (cold_drafts(received), copied_tokens(received)) == (1, (3, 1))


def test_drafts_observed_after_a_cold_one_keep_their_places() -> None:
    stats = stats_of(cold=1)
    stats.observe_draft(4, 4)
    assert stats.num_draft_tokens_per_pos == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert cold_drafts(stats) == 1


def test_the_numbers_travel_with_the_stats() -> None:
    sent = stats_of((4, 2), cold=3)
    add_copied_tokens(sent, 2, 1)
    add_draft_passes(sent, [1500])
    received = SpecDecodingStats(**json.loads(json.dumps(asdict(sent))))
    assert cold_drafts(received) == 3
    assert copied_tokens(received) == (2, 1)
    assert draft_passes(received) == [1500]


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
        RayGaugeWrapper,
        RayHistogramWrapper,
        RaySpecDecodingProm,
    )

    counted: dict[tuple[str, ...], float] = {}

    def inc(self: Any, value: float = 1.0) -> None:
        tags = {**self.metric.info["default_tags"], **self._tags}
        labels = [tags[label] for label in ("head", "lag", "source") if label in tags]
        key = (self.metric.info["name"], *labels)
        counted[key] = counted.get(key, 0) + value

    observed: dict[str, list[float]] = {}

    def observe(self: Any, value: float) -> None:
        observed.setdefault(self.metric.info["name"], []).append(value)

    monkeypatch.setattr(RayCounterWrapper, "inc", inc)
    monkeypatch.setattr(RayHistogramWrapper, "observe", observe)
    monkeypatch.setattr(RayGaugeWrapper, "set", observe)
    extended = with_leap_metrics(RaySpecDecodingProm, RayHistogramWrapper, RayGaugeWrapper)
    prom = extended(lmtp_config(), LABELS, ENGINES)
    stats = stats_of((4, 3), (4, 0), cold=1)
    add_copied_tokens(stats, 5, 2)
    add_draft_passes(stats, [1500])
    add_length_report(stats, LengthReport({3: 2}, [SizeInUse(1, 3, 1250)]))
    prom.observe(stats)
    assert observed == {
        "vllm_lmtp_draft_seconds": [0.0015],
        "vllm_lmtp_draft_length": [0, 0, 3],
        "vllm_lmtp_draft_length_gain": [1, 1, 1.25],
    }
    assert counted["vllm_lmtp_num_steps",] == 2
    assert counted["vllm_lmtp_num_draft_tokens", "0", "1"] == 2
    assert counted["vllm_lmtp_num_accepted_tokens", "1", "1"] == 1
    assert ("vllm_lmtp_num_accepted_tokens", "1", "0") not in counted  # nothing to count
    assert counted["vllm_lmtp_num_cold_drafts",] == 1
    for kind, of_heads, of_copies in (("draft", 3, 5), ("accepted", 1, 2)):
        assert counted[f"vllm_lmtp_num_{kind}_tokens_by_source", "head"] == of_heads
        assert counted[f"vllm_lmtp_num_{kind}_tokens_by_source", "copy"] == of_copies
