"""What became of the drafts of many requests: pure maths on what each step accepted.

docs/metrics.md defines the numbers. An acceptance length counts the target's own token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm_lmtp.eval.measurements.places import by_place
from vllm_lmtp.eval.statistics import jackknife, mean
from vllm_lmtp.method.leap import LeapSchedule

BIN = 0.25


@dataclass(frozen=True)
class Request:
    """One answered prompt. number: of its row in the set. tokens: of the answer. loop_start: where
    the answer begins to repeat itself until its end, if it does. drafted, accepted: tokens of each
    draft, in order."""

    number: int
    group: str
    prompt_tokens: int
    tokens: int
    loop_start: int | None
    drafted: tuple[int, ...]
    accepted: tuple[int, ...]

    @property
    def length(self) -> float | None:
        """This request's own mean acceptance length; None where it never drafted."""
        return 1 + sum(self.accepted) / len(self.accepted) if self.accepted else None

    def record(self) -> dict[str, Any]:
        """For the raw results."""
        return {
            "number": self.number,
            "group": self.group,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "loop_start": self.loop_start,
            "drafts": len(self.accepted),
            "draft_tokens": sum(self.drafted),
            "accepted_tokens": sum(self.accepted),
        }


def summarise(
    requests: Sequence[Request], schedule: LeapSchedule, num_drafts: int
) -> dict[str, Any]:
    """Acceptance of all these requests.

    Args:
        num_drafts: tokens of a whole draft, as served.
    """
    places = range(num_drafts)
    drafted = [sum(d > p for r in requests for d in r.drafted) for p in places]
    accepted = [sum(a > p for r in requests for a in r.accepted) for p in places]
    steps = Counter(a for r in requests for a in r.accepted)
    return {
        **_lengths(requests),
        "histogram": [steps[n] for n in range(num_drafts + 1)],
        "conditional": [_conditional(requests, place) for place in places],
        "request_histogram": _histogram([r.length for r in requests if r.length is not None]),
        **by_place(schedule, drafted, accepted),
    }


def _conditional(requests: Sequence[Request], place: int) -> float | None:
    """Share accepted of the drafts that reached a place and had all before it accepted."""
    steps = [a for r in requests for d, a in zip(r.drafted, r.accepted, strict=True) if d > place]
    tried = [a for a in steps if a >= place]
    return sum(a > place for a in tried) / len(tried) if tried else None


def by_group(requests: Sequence[Request], groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The lengths of each group of the set, in the set's order; groups without a request are left
    out."""
    found = {group: [r for r in requests if r.group == group] for group in groups}
    return {group: _lengths(members) for group, members in found.items() if members}


def loops(requests: Sequence[Request]) -> dict[str, Any]:
    """How many answers loop, and how many of all tokens lie in loops."""
    found = [(r, r.loop_start) for r in requests if r.loop_start is not None]
    return {
        "answers": len(found),
        "of": len(requests),
        "tokens_in_loops": sum(r.tokens - start for r, start in found),
        "tokens": sum(r.tokens for r in requests),
    }


def _lengths(requests: Sequence[Request]) -> dict[str, Any]:
    drafts = sum(len(r.accepted) for r in requests)
    accepted = sum(sum(r.accepted) for r in requests)
    draft_tokens = sum(sum(r.drafted) for r in requests)
    parts = [[sum(r.accepted), len(r.accepted)] for r in requests if r.accepted]
    return {
        "requests": len(requests),
        "tokens": sum(r.tokens for r in requests),
        "drafts": drafts,
        "draft_tokens": draft_tokens,
        "accepted_tokens": accepted,
        "acceptance_rate": accepted / draft_tokens if draft_tokens else None,
        "token_weighted": jackknife(parts, lambda sums: 1 + sums[0] / sums[1] if sums[1] else None),
        "request_weighted": mean([r.length for r in requests if r.length is not None]),
    }


def _histogram(values: Sequence[float]) -> list[dict[str, Any]]:
    """Requests in bins of their mean acceptance length, from 1 to the longest without a gap."""
    counts = Counter(int((value - 1) / BIN + 1e-9) for value in values)
    return [
        {"from": 1 + n * BIN, "below": 1 + (n + 1) * BIN, "requests": counts[n]}
        for n in range(max(counts, default=-1) + 1)
    ]
