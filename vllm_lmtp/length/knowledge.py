"""What a controller knows, as plain data that can be written down, and reading it with a check."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_lmtp.errors import Refusal, raise_refusals
from vllm_lmtp.length.choices import num_drafts
from vllm_lmtp.length.cost import EXTRA, PLAIN

VERSION = 3
"""Raised when the meaning of a number changes: a file of another version is not read."""
REMEDY = "delete it; it will be written anew"


@dataclass(frozen=True)
class SizeKnowledge:
    """seconds: the unknowns of `StepTime`. noise: of the clock, as a share of a step."""

    seconds: Sequence[float]
    noise: float


@dataclass(frozen=True)
class Knowledge:
    """lengths: what may be chosen. places: of each, the share accepted after the one before it,
    tries behind that, and the share verified. copies: the same where heads are not asked. sizes: by
    their most requests."""

    lengths: Sequence[int]
    places: Sequence[tuple[float, float, float]]
    copies: Sequence[tuple[float, float, float]]
    sizes: Mapping[int, SizeKnowledge]

    def as_dict(self) -> dict[str, Any]:
        """What `read` reads."""
        return {
            "version": VERSION,
            "lengths": list(self.lengths),
            "places": [list(place) for place in self.places],
            "copies": [list(place) for place in self.copies],
            "sizes": {
                str(most): {"seconds": list(size.seconds), "noise": size.noise}
                for most, size in self.sizes.items()
            },
        }


def read(state: Mapping[str, Any], lengths: Sequence[int], where: str) -> Knowledge:
    """Check what was read from a file.

    Args:
        lengths: that are in use now; the state must be of the same.

    Raises:
        LMTPError: with every reason at once, unless it is of another version altogether.
    """
    found: list[Refusal] = []

    def want(good: bool, field: str, value: object, expected: str) -> bool:
        if not good:
            found.append(Refusal(where, field, repr(value)[:80], expected, REMEDY))
        return good

    if not want(isinstance(state, Mapping), "the whole", state, "a dictionary"):
        raise_refusals(found)
    version = state.get("version")
    if not want(version == VERSION, "version", version, str(VERSION)):
        raise_refusals(found)
    same = state.get("lengths") == list(lengths)
    want(same, "lengths", state.get("lengths"), f"{list(lengths)}, those in use")
    sizes: Any = state.get("sizes")
    for name in ("places", "copies"):
        places: Any = state.get(name)
        if not want(isinstance(places, list), name, places, "a list"):
            continue
        count = max(map(num_drafts, lengths))
        want(len(places) == count, name, f"{len(places)} of them", f"{count} of them")
        for i, place in enumerate(places):
            good = _numbers(place, 3) and 0 <= place[0] <= 1 and place[1] >= 0 <= place[2] <= 1
            want(good, f"{name}[{i}]", place, "a share, tries from 0 on, and a share")
    if want(isinstance(sizes, Mapping), "sizes", sizes, "a dictionary"):
        for most, size in sizes.items():
            field = f"sizes[{most!r}]"
            power = isinstance(most, str) and most.isdecimal() and int(most).bit_count() == 1
            want(power, "sizes", most, "powers of two")
            if not want(isinstance(size, Mapping), field, size, "a dictionary"):
                continue
            seconds, noise = size.get("seconds"), size.get("noise")
            count = EXTRA + len([length for length in lengths if length > 0])
            good = _numbers(seconds, count) and seconds[PLAIN] > 0
            want(good, f"{field}.seconds", seconds, f"{count} numbers, the first above 0")
            good = _numbers([noise], 1) and noise > 0
            want(good, f"{field}.noise", noise, "a number above 0")
    raise_refusals(found)
    return Knowledge(
        tuple(lengths),
        [(share, tries, shown) for share, tries, shown in state["places"]],
        [(share, tries, shown) for share, tries, shown in state["copies"]],
        {
            int(most): SizeKnowledge([float(s) for s in size["seconds"]], float(size["noise"]))
            for most, size in state["sizes"].items()
        },
    )


def _numbers(value: object, count: int) -> bool:
    """Whether it is a list of so many finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
        and all(math.isfinite(v) for v in value)
    )
