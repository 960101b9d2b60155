"""Counters that agree, and each way in which they may not."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_lmtp.eval.engines.engine import (
    ACCEPTED_PER_PLACE,
    ACCEPTED_TOKENS,
    DRAFT_TOKENS,
    DRAFTS,
    Steps,
)
from vllm_lmtp.eval.trust.counters import (
    CACHE_IN_USE,
    ENDED,
    RUNNING,
    Counts,
    against_requests,
    broken,
    by_place,
    by_source,
    difference,
    engine_counts,
    key_of,
    page_counts,
    total,
)
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.observe.metrics import (
    ACCEPTED,
    ACCEPTED_BY_SOURCE,
    COLD,
    DRAFTED,
    DRAFTED_BY_SOURCE,
)

LEAP = LeapSchedule(2, 2)
STEPS_OF = [Steps((4, 3), (4, 0)), Steps((4,), (1,))]
"""Two requests: three drafts of 4, 3 and 4 tokens, of which 4, 0 and 1 were accepted."""


def agreeing() -> Counts:
    """What an engine counts of them; of the first draft two tokens were copied."""
    found: Counts = Counter({DRAFTS: 3, DRAFT_TOKENS: 11, ACCEPTED_TOKENS: 5, COLD: 1})
    for place, (drafted, accepted) in enumerate(((3, 2), (3, 1), (3, 1), (2, 1))):
        source = LEAP.source(place)
        labels = {"head": source.head, "lag": source.lag}
        found[key_of(DRAFTED, **labels)] = drafted
        found[key_of(ACCEPTED, **labels)] = accepted
        found[key_of(ACCEPTED_PER_PLACE, position=place)] = accepted
    for name, heads, copies in ((DRAFTED_BY_SOURCE, 9, 2), (ACCEPTED_BY_SOURCE, 3, 2)):
        found[key_of(name, source="head")] = heads
        found[key_of(name, source="copy")] = copies
    return found


def test_counters_that_agree() -> None:
    counts = agreeing()
    assert broken(counts, LEAP, 4) == []
    assert against_requests(counts, STEPS_OF, LEAP, 4) == []
    assert [row["refused"] for row in by_place(counts, LEAP, 4)] == [1, 2, 2, 1]
    assert [row["refused"] for row in by_source(counts)] == [6, 0]


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        (key_of(DRAFTED, head=0, lag=1), 1, "drafted by head and lag is 12"),
        (key_of(ACCEPTED, head=1, lag=0), 1, "accepted by head and lag is 6"),
        (key_of(DRAFTED_BY_SOURCE, source="copy"), -1, "drafted by source is 10"),
        (key_of(ACCEPTED_BY_SOURCE, source="copy"), 1, "more accepted than drafted"),
        (key_of(ACCEPTED_PER_PLACE, position=3), -1, "accepted by place"),
        (DRAFTS, -1, "2 drafts, first places 3"),
        (COLD, 3, "4 cold"),
        (COLD, -2, f"{COLD} is -1"),
        (DRAFT_TOKENS, 1, f"{DRAFT_TOKENS} 12"),
    ],
)
def test_one_that_does_not_is_named(key: str, change: int, says: str) -> None:
    counts = agreeing()
    counts[key] += change
    assert any(says in fault for fault in broken(counts, LEAP, 4)), broken(counts, LEAP, 4)


def test_a_place_that_was_drafted_more_often_than_the_one_before_it() -> None:
    counts = agreeing()
    counts[key_of(DRAFTED, head=0, lag=0)] -= 2
    counts[key_of(DRAFTED, head=1, lag=0)] += 2
    (fault,) = broken(counts, LEAP, 4)
    assert fault == "drafted grows along the draft: [3, 1, 3, 4]"


def test_counters_against_the_requests_own_record() -> None:
    (fault,) = against_requests(agreeing(), STEPS_OF[:1], LEAP, 4)[:1]
    assert fault == "drafted by place is [3, 3, 3, 2] in all, of the requests [2, 2, 2, 1]"


PAGE = """
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 2.0
vllm:request_success_total{engine="1",finished_reason="stop",model_name="m"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 4.0
# TYPE vllm:request_success_created gauge
vllm:request_success_created{engine="0",finished_reason="stop",model_name="m"} 1.7e9
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 7.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 1.0
vllm:num_requests_running{engine="1"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0"} 0.25
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 9.0
"""


def test_a_servers_page() -> None:
    counts, levels = page_counts(PAGE)
    stop, length = (key_of(ENDED, finished_reason=reason) for reason in ("stop", "length"))
    assert counts == {stop: 5, length: 4, DRAFTS: 7}
    assert levels == {RUNNING: 3.0, CACHE_IN_USE: 0.25}
    assert total(counts, ENDED) == 9
    assert difference(Counter({"a": 1}), Counter({"a": 3, "b": 1})) == {"a": -2, "b": -1}


def test_an_engines_metrics() -> None:
    def metric(name: str, labels: dict[str, str] | None = None, **values: Any) -> Any:
        return SimpleNamespace(name=name, labels=labels or {"engine": "0"}, **values)

    metrics = [
        metric(ACCEPTED_PER_PLACE, values=[2, 1]),
        metric(DRAFTED, {"head": "0", "lag": "1", "engine": "0"}, value=5),
        metric(DRAFTED, {"head": "0", "lag": "1", "engine": "1"}, value=2),
        metric("vllm:something_else", value=9),
    ]
    found = engine_counts(SimpleNamespace(get_metrics=lambda: metrics))
    places = {key_of(ACCEPTED_PER_PLACE, position=p): n for p, n in ((0, 2), (1, 1))}
    assert found == {key_of(DRAFTED, head=0, lag=1): 7} | places
