"""Metrics that vLLM does not have: acceptance by head, lag and source, cold drafts, draft times.

Head and lag are a function of the position in the draft, so the per-position numbers that vLLM's
scheduler already sends to the frontend are enough. docs/metrics.md defines each number.
"""

from __future__ import annotations

from typing import Any

from vllm_lmtp import METHOD
from vllm_lmtp.method.leap import LeapSchedule

DRAFTED = "vllm:lmtp_num_draft_tokens"
ACCEPTED = "vllm:lmtp_num_accepted_tokens"
DRAFTED_BY_SOURCE = "vllm:lmtp_num_draft_tokens_by_source"
ACCEPTED_BY_SOURCE = "vllm:lmtp_num_accepted_tokens_by_source"
FROM_HEAD, FROM_COPY = "head", "copy"
COLD = "vllm:lmtp_num_cold_drafts"
DRAFT_SECONDS = "vllm:lmtp_draft_seconds"
BUCKETS = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]


def with_leap_metrics(prometheus_class: type[Any], histogram_class: Any) -> type[Any]:
    """A subclass of vLLM's `SpecDecodingProm`, or of its Ray twin, with the metrics added.

    Without lmtp it behaves as its base.

    Args:
        histogram_class: `prometheus_client.Histogram`, or vLLM's Ray twin of it.
    """

    class LMTPSpecDecodingProm(prometheus_class):
        def __init__(
            self,
            speculative_config: Any,
            labelnames: list[str],
            per_engine_labelvalues: dict[int, list[object]],
            **options: Any,
        ) -> None:
            super().__init__(speculative_config, labelnames, per_engine_labelvalues, **options)
            self._leap: dict[int, _EngineMetrics] = {}
            if getattr(speculative_config, "method", None) != METHOD:
                return
            by_source = [*labelnames, "head", "lag"]
            drafted = self._counter_cls(DRAFTED, "Draft tokens, by head and lag.", by_source)
            accepted = self._counter_cls(ACCEPTED, "Accepted tokens, by head and lag.", by_source)
            whence = [*labelnames, "source"]
            drafted_by_source = self._counter_cls(
                DRAFTED_BY_SOURCE, "Draft tokens, by whether the text decided them.", whence
            )
            accepted_by_source = self._counter_cls(
                ACCEPTED_BY_SOURCE, "Accepted tokens, by whether the text decided them.", whence
            )
            cold = self._counter_cls(
                COLD, "Drafts made before all lagged hidden states were known.", labelnames
            )
            seconds = histogram_class(
                DRAFT_SECONDS,
                "Time of a drafting pass for the whole batch.",
                labelnames,
                buckets=BUCKETS,
            )
            for engine, values in per_engine_labelvalues.items():
                self._leap[engine] = _EngineMetrics(
                    speculative_config.schedule,
                    speculative_config.num_speculative_tokens,
                    drafted,
                    accepted,
                    drafted_by_source,
                    accepted_by_source,
                    cold,
                    seconds,
                    values,
                )

        def observe(self, spec_decoding_stats: Any, engine_idx: int = 0) -> None:
            super().observe(spec_decoding_stats, engine_idx)
            if engine_idx in self._leap:
                self._leap[engine_idx].observe(spec_decoding_stats)

    return LMTPSpecDecodingProm


class _EngineMetrics:
    """The metrics of one engine, with one pair of counters for each position of the draft.

    Positions that share a head and a lag do not exist, so each position has a counter of its own.
    """

    def __init__(
        self,
        schedule: LeapSchedule,
        num_drafts: int,
        drafted: Any,
        accepted: Any,
        drafted_by_source: Any,
        accepted_by_source: Any,
        cold: Any,
        seconds: Any,
        labelvalues: list[object],
    ) -> None:
        labels = [
            (*labelvalues, str(source.head), str(source.lag))
            for source in schedule.sources(num_drafts)
        ]
        self.drafted = [drafted.labels(*values) for values in labels]
        self.accepted = [accepted.labels(*values) for values in labels]
        self.by_source = {
            source: (
                drafted_by_source.labels(*labelvalues, source),
                accepted_by_source.labels(*labelvalues, source),
            )
            for source in (FROM_HEAD, FROM_COPY)
        }
        self.cold = cold.labels(*labelvalues)
        self.seconds = seconds.labels(*labelvalues)

    def observe(self, stats: Any) -> None:
        for place, counter in enumerate(self.drafted):
            counter.inc(stats.num_draft_tokens_per_pos[place])
            self.accepted[place].inc(stats.num_accepted_tokens_per_pos[place])
        copied = copied_tokens(stats)
        for (all_tokens, from_text), of_heads, of_copies in zip(
            zip((stats.num_draft_tokens, stats.num_accepted_tokens), copied, strict=True),
            self.by_source[FROM_HEAD],
            self.by_source[FROM_COPY],
            strict=True,
        ):
            of_heads.inc(all_tokens - from_text)
            of_copies.inc(from_text)
        self.cold.inc(cold_drafts(stats))
        for microseconds in draft_passes(stats):
            self.seconds.observe(microseconds / 1e6)


# The stats of a step travel to the frontend as a fixed set of fields. vLLM reads
# `num_draft_tokens_per_pos` nowhere and our counters read it by place, so ours ride behind its last
# place: how many drafts were cold, how many draft tokens were copied and how many of those were
# accepted, then the microseconds of each drafting pass.

_COLD, _COPIES_DRAFTED, _COPIES_ACCEPTED, _NUM_COUNTS = range(4)


def add_cold_draft(stats: Any) -> None:
    """Note one cold draft in a step's `SpecDecodingStats`."""
    _with_room(stats)[stats.num_spec_tokens + _COLD] += 1


def add_copied_tokens(stats: Any, drafted: int, accepted: int) -> None:
    """Note how many tokens of a draft, and how many accepted ones, were copied from the text."""
    noted = _with_room(stats)
    noted[stats.num_spec_tokens + _COPIES_DRAFTED] += drafted
    noted[stats.num_spec_tokens + _COPIES_ACCEPTED] += accepted


def add_draft_passes(stats: Any, microseconds: list[int]) -> None:
    """Note how long drafting passes took in a step's `SpecDecodingStats`."""
    _with_room(stats).extend(microseconds)


def cold_drafts(stats: Any) -> int:
    """Cold drafts of one step, as noted by `add_cold_draft`."""
    return _counts(stats)[_COLD]


def copied_tokens(stats: Any) -> tuple[int, int]:
    """Draft and accepted tokens of one step that were copied, as noted by `add_copied_tokens`."""
    counts = _counts(stats)
    return counts[_COPIES_DRAFTED], counts[_COPIES_ACCEPTED]


def draft_passes(stats: Any) -> list[int]:
    """Microseconds of each drafting pass, as noted by `add_draft_passes`."""
    return list(stats.num_draft_tokens_per_pos[stats.num_spec_tokens + _NUM_COUNTS :])


def _counts(stats: Any) -> list[int]:
    noted = stats.num_draft_tokens_per_pos[stats.num_spec_tokens :][:_NUM_COUNTS]
    return noted or [0] * _NUM_COUNTS


def _with_room(stats: Any) -> list[int]:
    per_place: list[int] = stats.num_draft_tokens_per_pos
    if len(per_place) == stats.num_spec_tokens:
        per_place.extend([0] * _NUM_COUNTS)
    return per_place
