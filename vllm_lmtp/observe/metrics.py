"""Metrics that vLLM does not have: acceptance by head, lag and source, cold drafts, draft times,
and what the draft length does.

Head and lag are a function of the position in the draft, so the per-position numbers that vLLM's
scheduler already sends to the frontend are enough. docs/metrics.md defines each number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_lmtp import METHOD
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.observe.carried import cold_drafts, copied_tokens, draft_passes, length_report

DRAFTED = "vllm:lmtp_num_draft_tokens"
ACCEPTED = "vllm:lmtp_num_accepted_tokens"
DRAFTED_BY_SOURCE = "vllm:lmtp_num_draft_tokens_by_source"
ACCEPTED_BY_SOURCE = "vllm:lmtp_num_accepted_tokens_by_source"
FROM_HEAD, FROM_COPY = "head", "copy"
COLD = "vllm:lmtp_num_cold_drafts"
DRAFT_SECONDS = "vllm:lmtp_draft_seconds"
STEPS = "vllm:lmtp_num_steps"
LENGTH = "vllm:lmtp_draft_length"
GAIN = "vllm:lmtp_draft_length_gain"
BUCKETS = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]


def with_leap_metrics(
    prometheus_class: type[Any], histogram_class: Any, gauge_class: Any
) -> type[Any]:
    """A subclass of vLLM's `SpecDecodingProm`, or of its Ray twin, with the metrics added.

    Without lmtp it behaves as its base.

    Args:
        histogram_class, gauge_class: `prometheus_client`'s, or vLLM's Ray twins of them.
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
            lengths = None
            found = speculative_config.lmtp_draft_length == "auto"
            # vLLM drops schedules of any kind where it has to, and then no length is found.
            if found and speculative_config.num_speculative_tokens_per_batch_size:
                by_size = [*labelnames, "batch_size"]
                lengths = _LengthMetrics(
                    speculative_config.draft_choices,
                    self._counter_cls(
                        STEPS,
                        "Steps, by the drafts a request that were wanted of them.",
                        [*labelnames, "draft_length"],
                    ),
                    gauge_class(
                        LENGTH,
                        "Drafts a request in use, by the most requests of a size of batch.",
                        by_size,
                        multiprocess_mode="mostrecent",
                    ),
                    gauge_class(
                        GAIN,
                        "Estimated speed over plain decoding with that length.",
                        by_size,
                        multiprocess_mode="mostrecent",
                    ),
                )
            for engine, values in per_engine_labelvalues.items():
                if lengths is not None:
                    lengths.begin(values)
                self._leap[engine] = _EngineMetrics(
                    speculative_config.schedule,
                    speculative_config.num_speculative_tokens,
                    drafted,
                    accepted,
                    drafted_by_source,
                    accepted_by_source,
                    cold,
                    seconds,
                    lengths,
                    values,
                )

        def observe(self, spec_decoding_stats: Any, engine_idx: int = 0) -> None:
            super().observe(spec_decoding_stats, engine_idx)
            if engine_idx in self._leap:
                self._leap[engine_idx].observe(spec_decoding_stats)

    return LMTPSpecDecodingProm


class _LengthMetrics:
    """What a draft length that is found while serving does; of all engines.

    Args:
        choices: what may be chosen.
    """

    def __init__(self, choices: Sequence[int], steps: Any, length: Any, gain: Any) -> None:
        self.choices = choices
        self.steps, self.length, self.gain = steps, length, gain

    def begin(self, labelvalues: list[object]) -> None:
        """Show an engine that has not begun: no steps, and plain decoding for one request."""
        for choice in self.choices:
            self.steps.labels(*labelvalues, str(choice)).inc(0)
        self.length.labels(*labelvalues, "1").set(0)
        self.gain.labels(*labelvalues, "1").set(1)

    def observe(self, stats: Any, labelvalues: list[object]) -> None:
        report = length_report(stats)
        if report is None:
            return
        for length, count in report.steps.items():
            self.steps.labels(*labelvalues, str(length)).inc(count)
        for size in report.sizes:
            self.length.labels(*labelvalues, str(size.most)).set(size.length)
            self.gain.labels(*labelvalues, str(size.most)).set(size.gain / 1000)


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
        lengths: _LengthMetrics | None,
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
        self.lengths, self.labelvalues = lengths, labelvalues

    def observe(self, stats: Any) -> None:
        for place, counter in enumerate(self.drafted):
            _add(counter, stats.num_draft_tokens_per_pos[place])
            _add(self.accepted[place], stats.num_accepted_tokens_per_pos[place])
        copied = copied_tokens(stats)
        for (all_tokens, from_text), of_heads, of_copies in zip(
            zip((stats.num_draft_tokens, stats.num_accepted_tokens), copied, strict=True),
            self.by_source[FROM_HEAD],
            self.by_source[FROM_COPY],
            strict=True,
        ):
            _add(of_heads, all_tokens - from_text)
            _add(of_copies, from_text)
        _add(self.cold, cold_drafts(stats))
        for microseconds in draft_passes(stats):
            self.seconds.observe(microseconds / 1e6)
        if self.lengths is not None:
            self.lengths.observe(stats, self.labelvalues)


def _add(counter: Any, count: int) -> None:
    """To count nothing takes as long as to count something, and most places of a step have none."""
    if count:
        counter.inc(count)
