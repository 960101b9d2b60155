"""Requests of every kind, the same for the same seed; and when they arrive."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from vllm_lmtp.eval.trust.mixture import KINDS, requests_of_block, some_requests
from vllm_lmtp.eval.trust.schedule import schedule

TEXTS = [[100 * text + place for place in range(90)] for text in range(5)]
CONTEXT, LONGEST = 64, 40


def test_blocks_hold_every_kind_and_what_they_promise() -> None:
    blocks = [requests_of_block(TEXTS, CONTEXT, LONGEST, 600, 7, n) for n in range(6)]
    assert blocks[2] == requests_of_block(TEXTS, CONTEXT, LONGEST, 600, 7, 2)
    assert blocks[2] != blocks[3]
    assert blocks[2] != requests_of_block(TEXTS, CONTEXT, LONGEST, 600, 8, 2)
    everything = [request for block in blocks for request in block]
    assert set(Counter(r.kind for r in everything)) == set(KINDS)
    for r in everything:
        assert 1 <= len(r.tokens) < CONTEXT
        assert 1 <= r.max_tokens <= LONGEST
    assert {len(r.tokens) for r in everything if r.kind == "one"} == {1}
    assert max(len(r.tokens) + r.max_tokens for r in everything if r.kind == "end") > CONTEXT
    assert {r.ignore_eos for r in everything} == {True, False}
    for block in blocks:
        expected = [r.longest(CONTEXT) for r in block]
        assert sum(expected) >= 600 > sum(expected[:-1])


def test_prompts_that_begin_alike_and_prompts_asked_before() -> None:
    block = requests_of_block(TEXTS, CONTEXT, LONGEST, 3000, 0, 0)
    again = [r.tokens for r in block if r.kind == "repeated"]
    first = [r.tokens for r in block if r.kind != "repeated"]
    assert again
    assert set(again[1:]) & set(first)
    shared = [r.tokens for r in block if r.kind == "shared"]
    begun = Counter(tokens[0] for tokens in shared)
    assert len(begun) <= 3
    assert begun.most_common(1)[0][1] > 1


def test_so_many_requests() -> None:
    found = some_requests(TEXTS, CONTEXT, LONGEST, 50, 3)
    assert len(found) == 50
    assert len({r.tokens for r in found}) > 30


def test_arrivals_have_bursts_and_gaps() -> None:
    requests = some_requests(TEXTS, CONTEXT, LONGEST, 20, 3)
    events = schedule(requests, 2, 400.0, 2.0, 30, 5)
    assert events == schedule(requests, 2, 400.0, 2.0, 30, 5)
    times = [e.at for e in events]
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < 400
    assert max(sum(at <= t < at + 1 for t in times) for at in times) >= 30  # a burst
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 8  # nothing comes: of Poisson's at this rate once in millions
    steady = [gap for gap in gaps if 0.1 < gap < 8]
    assert 0.3 < sum(steady) / len(steady) < 0.9  # half a second and a tenth, in the mean
    assert {e.model for e in events} == {0, 1, 2}
    leaving = [e for e in events if e.leaves is not None]
    assert 0.08 < len(leaving) / len(events) < 0.25
    assert all(e.max_tokens <= requests[e.request].max_tokens for e in events)
    assert {e.streamed for e in events} == {True, False}
