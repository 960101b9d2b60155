"""The leap schedule against brute force."""

from __future__ import annotations

import pytest

from vllm_lmtp.method.leap import LeapSchedule, Source

SHAPES = [(n, k) for n in range(1, 7) for k in range(1, 7)]


@pytest.mark.parametrize(("n_heads", "stride"), SHAPES)
def test_every_offset_is_filled_once_and_in_order(n_heads: int, stride: int) -> None:
    schedule = LeapSchedule(n_heads, stride)

    # What a head read at some lag predicts, seen from the last finalised position.
    filled = [1 + stride * (s.head + 1) - s.lag for s in schedule.sources(schedule.max_drafts)]

    assert filled == list(range(2, n_heads * stride + 2))


@pytest.mark.parametrize(("n_heads", "stride"), SHAPES)
def test_source_is_the_only_head_and_lag_that_reach_an_offset(n_heads: int, stride: int) -> None:
    schedule = LeapSchedule(n_heads, stride)
    for place in range(n_heads * stride):
        reaching = [
            Source(head, lag)
            for head in range(n_heads)
            for lag in range(stride)
            if schedule.offset_of_head(head) - lag == place + 2
        ]
        assert reaching == [schedule.source(place)]


@pytest.mark.parametrize(("n_heads", "stride"), SHAPES)
def test_heads_needed_is_the_number_of_heads_read(n_heads: int, stride: int) -> None:
    schedule = LeapSchedule(n_heads, stride)
    for drafts in range(schedule.max_drafts + 1):
        read = {source.head for source in schedule.sources(drafts)}
        assert read == set(range(schedule.heads_needed(drafts)))


def test_stride_two_alternates_the_previous_and_the_last_position() -> None:
    assert [(s.head, s.lag) for s in LeapSchedule(3, 2).sources(6)] == [
        (0, 1),
        (0, 0),
        (1, 1),
        (1, 0),
        (2, 1),
        (2, 0),
    ]


@pytest.mark.parametrize("n_heads", range(1, 7))
def test_stride_one_is_medusa(n_heads: int) -> None:
    schedule = LeapSchedule(n_heads, 1)

    assert schedule.sources(n_heads) == tuple(Source(head, 0) for head in range(n_heads))
    assert [schedule.offset_of_head(h) for h in range(n_heads)] == list(range(2, n_heads + 2))


@pytest.mark.parametrize(("n_heads", "stride"), [(0, 1), (1, 0), (-1, 2), (2, -1)])
def test_sizes_below_one_are_refused(n_heads: int, stride: int) -> None:
    with pytest.raises(ValueError, match=f"got {n_heads} and {stride}"):
        LeapSchedule(n_heads, stride)


@pytest.mark.parametrize("place", [-1, 6])
def test_places_outside_the_draft_are_refused(place: int) -> None:
    with pytest.raises(IndexError, match=r"outside 0\.\.5"):
        LeapSchedule(3, 2).source(place)


def test_more_sources_than_places_are_refused() -> None:
    with pytest.raises(IndexError):
        LeapSchedule(3, 2).sources(7)
