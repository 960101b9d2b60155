"""What may be chosen: how many drafts a request, and whether heads are asked for them.

A choice is a whole number: m > 0 for m drafts, filled by heads and text; 0 for none; -m for up to m
drafts that go on as the request's text does, without asking the heads. Those cost next to nothing
to make and are verified only where a text says something.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class Kind(Enum):
    """Who is asked."""

    NOTHING = "nothing"
    COPIES = "copies"
    HEADS = "heads"


def spread_lengths(max_drafts: int) -> tuple[int, ...]:
    """Lengths worth having: every one up to 4, then wider apart, and the longest."""
    found = [m for m in range(max_drafts + 1) if m <= 4]
    while found[-1] < max_drafts:
        found.append(min(max_drafts, found[-1] + max(2, found[-1] // 2)))
    return tuple(found)


def in_order(choices: Iterable[int]) -> tuple[int, ...]:
    """Each once, by what they ask for: nothing first, then copies, then heads."""
    return tuple(sorted({0, *choices}, key=lambda m: (m > 0, abs(m))))


def num_drafts(choice: int) -> int:
    """Drafts a request that it makes at most."""
    return abs(choice)


def asked_of_heads(choice: int) -> int:
    """Drafts a request that heads are asked for."""
    return max(0, choice)


def kind_of(choice: int) -> Kind:
    """Whom it asks."""
    if not choice:
        return Kind.NOTHING
    return Kind.HEADS if choice > 0 else Kind.COPIES
