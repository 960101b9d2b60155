"""The acceptance of a run under the names that other tools write and read.

`acceptance.csv` is what speculators' evaluation writes: a row for each part of the set, with the
share of drafts of which each place was accepted. `acceptance_rate.json` has the fields of
ModelOpt's benchmark, whose lengths count the target's own token: a step of length k has k - 1
tokens accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean
from typing import Any

from vllm_lmtp.eval.measurements.acceptance import Request


def speculators_rows(
    requests: Sequence[Request], groups: Sequence[str], num_drafts: int
) -> list[dict[str, Any]]:
    """The rows of `acceptance.csv`, in the set's order; parts without a request are left out.

    Args:
        num_drafts: tokens of a whole draft, as served.
    """
    parts = {group: [r for r in requests if r.group == group] for group in groups}
    return [_row(group, members, num_drafts) for group, members in parts.items() if members]


def _row(subset: str, requests: Sequence[Request], num_drafts: int) -> dict[str, Any]:
    steps = [a for r in requests for a in r.accepted]
    drafts = len(steps)
    reached = [sum(a > place for a in steps) for place in range(num_drafts)]
    return {
        "subset": subset,
        "num_drafts": drafts,
        "num_draft_tokens": sum(sum(r.drafted) for r in requests),
        "num_accepted_tokens": sum(steps),
        "acceptance_length": 1 + sum(steps) / drafts if drafts else 0,
        **{
            f"acceptance_at_pos_{place}": count / drafts if drafts else 0
            for place, count in enumerate(reached)
        },
    }


def modelopt_fields(requests: Sequence[Request]) -> dict[str, Any]:
    """The content of `acceptance_rate.json`; only steps that verified a draft count."""
    asked = [r for r in requests if r.length is not None]
    histogram = Counter(1 + a for r in asked for a in r.accepted)
    lengths = sorted(histogram)
    total = sum(histogram.values())
    below = accumulate((histogram[k] for k in lengths), initial=0)
    joint = {k: (total - before) / total for k, before in zip(lengths, below, strict=False)}
    conditional, last = {}, 1.0
    for k, share in joint.items():
        conditional[k], last = share / last, share
    categories = dict.fromkeys(r.group for r in asked)
    by_category = {name: [r.length for r in asked if r.group == name] for name in categories}
    return {
        "Request_AL": {str(r.number): {"0": r.length} for r in asked},
        "Category_AL": {name: _mean(found) for name, found in by_category.items()},
        "Average_AL": _mean([r.length for r in asked]),
        "Acceptance_Length_Histogram": {str(k): histogram[k] for k in lengths},
        "Conditional_Acceptance_Rate": {str(k): share for k, share in conditional.items()},
        "Joint_Acceptance_Rate": {str(k): share for k, share in joint.items()},
    }


def _mean(lengths: Sequence[float | None]) -> float | None:
    known = [length for length in lengths if length is not None]
    return fmean(known) if known else None
