"""How long the requests of a soak waited."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from vllm_lmtp.eval.trust.client import Answer

PERCENTILES = (50, 90, 99)


def times_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """Milliseconds by percentile: first token and what each further one took, of streams; answer,
    of all. `all`: the answers' hundred percentiles, for the picture."""
    streams = [a for a in answers if a.first is not None and a.ended is not None]
    first = [1e3 * (a.first - a.sent) for a in streams if a.first is not None]
    each = [
        1e3 * (a.ended - a.first) / (len(a.tokens) - 1)
        for a in streams
        if a.first is not None and a.ended is not None and len(a.tokens) > 1
    ]
    whole = [1e3 * (a.ended - a.sent) for a in answers if a.ended is not None]
    found: dict[str, Any] = {
        name: {f"p{p}": _percentile(values, p) for p in PERCENTILES}
        for name, values in (("first_token", first), ("token", each), ("answer", whole))
    }
    return found | {"all": [_percentile(whole, p) for p in range(1, 100)]}


def _percentile(values: Sequence[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 2)
