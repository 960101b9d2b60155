"""Draft and accepted tokens by place in the draft, and added up by head and by lag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vllm_lmtp.method.leap import LeapSchedule, Source


def by_place(
    schedule: LeapSchedule, drafted: Sequence[int], accepted: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """{"by_position", "by_head", "by_lag"}; rates are None where nothing was drafted.

    Args:
        drafted, accepted: tokens at each place, for as many places as are served.
    """
    places = [
        {
            "place": place,
            "offset": place + 2,
            "head": source.head,
            "lag": source.lag,
            "drafted": drafted[place],
            "accepted": accepted[place],
        }
        for place, source in enumerate(schedule.sources(len(drafted)))
    ]
    return {
        "by_position": [_with_rate(place) for place in places],
        "by_head": _grouped(schedule, places, "head", lambda source: source.head),
        "by_lag": _grouped(schedule, places, "lag", lambda source: source.lag),
    }


def _grouped(
    schedule: LeapSchedule,
    places: list[dict[str, int]],
    name: str,
    key: Callable[[Source], int],
) -> list[dict[str, Any]]:
    groups: dict[int, dict[str, int]] = {}
    for place in places:
        value = key(schedule.source(place["place"]))
        group = groups.setdefault(value, {name: value, "drafted": 0, "accepted": 0})
        group["drafted"] += place["drafted"]
        group["accepted"] += place["accepted"]
    return [_with_rate(groups[value]) for value in sorted(groups)]


def _with_rate(counted: dict[str, int]) -> dict[str, Any]:
    drafted = counted["drafted"]
    return counted | {"rate": counted["accepted"] / drafted if drafted else None}
