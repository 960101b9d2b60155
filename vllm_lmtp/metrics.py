"""Counters that vLLM does not have: drafts and acceptance by head and by lag, and cold drafts.

Head and lag are a function of the position in the draft, so the per-position numbers that vLLM's
scheduler already sends to the frontend are enough. docs/metrics.md defines each number.
"""

from __future__ import annotations

from typing import Any

from vllm_lmtp import METHOD
from vllm_lmtp.leap import LeapSchedule

DRAFTED = "vllm:lmtp_num_draft_tokens"
ACCEPTED = "vllm:lmtp_num_accepted_tokens"
COLD = "vllm:lmtp_num_cold_drafts"


def with_leap_counters(prometheus_class: type[Any]) -> type[Any]:
    """A subclass of vLLM's `SpecDecodingProm`, or of its Ray twin, with the counters added.

    Without lmtp it behaves as its base.
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
            self._leap: dict[int, _EngineCounters] = {}
            if getattr(speculative_config, "method", None) != METHOD:
                return
            by_source = [*labelnames, "head", "lag"]
            drafted = self._counter_cls(DRAFTED, "Draft tokens, by head and lag.", by_source)
            accepted = self._counter_cls(ACCEPTED, "Accepted tokens, by head and lag.", by_source)
            cold = self._counter_cls(
                COLD, "Drafts made before all lagged hidden states were known.", labelnames
            )
            for engine, values in per_engine_labelvalues.items():
                self._leap[engine] = _EngineCounters(
                    speculative_config.schedule,
                    speculative_config.num_speculative_tokens,
                    drafted,
                    accepted,
                    cold,
                    values,
                )

        def observe(self, spec_decoding_stats: Any, engine_idx: int = 0) -> None:
            super().observe(spec_decoding_stats, engine_idx)
            if engine_idx in self._leap:
                self._leap[engine_idx].observe(spec_decoding_stats)

    return LMTPSpecDecodingProm


class _EngineCounters:
    """The counters of one engine, one pair for each position of the draft.

    Positions that share a head and a lag do not exist, so each position has a counter of its own.
    """

    def __init__(
        self,
        schedule: LeapSchedule,
        num_drafts: int,
        drafted: Any,
        accepted: Any,
        cold: Any,
        labelvalues: list[object],
    ) -> None:
        labels = [
            (*labelvalues, str(source.head), str(source.lag))
            for source in schedule.sources(num_drafts)
        ]
        self.drafted = [drafted.labels(*values) for values in labels]
        self.accepted = [accepted.labels(*values) for values in labels]
        self.cold = cold.labels(*labelvalues)

    def observe(self, stats: Any) -> None:
        for place, counter in enumerate(self.drafted):
            counter.inc(stats.num_draft_tokens_per_pos[place])
            self.accepted[place].inc(stats.num_accepted_tokens_per_pos[place])
        self.cold.inc(cold_drafts(stats))


def add_cold_draft(stats: Any) -> None:
    """Note one cold draft in a step's `SpecDecodingStats`.

    The stats travel to the frontend as a fixed set of fields. vLLM reads
    `num_draft_tokens_per_pos` nowhere and our counters read it by place, so the number rides behind
    its last place.
    """
    per_place = stats.num_draft_tokens_per_pos
    if len(per_place) == stats.num_spec_tokens:
        per_place.append(0)
    per_place[-1] += 1


def cold_drafts(stats: Any) -> int:
    """Cold drafts of one step, as noted by `add_cold_draft`."""
    per_place = stats.num_draft_tokens_per_pos
    return per_place[-1] if len(per_place) > stats.num_spec_tokens else 0
