"""Requests of every kind that a server meets, by a seed: prompts from one token to the context's
end, some that begin alike and some asked before, answers from one token to many."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

KINDS = {"one": 8, "short": 25, "any": 25, "end": 8, "shared": 20, "repeated": 14}
"""Of a hundred prompts, how many are: of one token, short, of any length, so long that the answer
meets the context's end, begun as others are, and asked before."""
SHORT = 32
STEMS = 3
"""Beginnings that the prompts of a block share."""
SPARE = 24
"""An answer to the longest prompts has so many tokens at most before the context ends."""


@dataclass(frozen=True)
class Request:
    """kind: of KINDS. ignore_eos: goes on where the model would end."""

    kind: str
    tokens: tuple[int, ...]
    max_tokens: int
    ignore_eos: bool

    def longest(self, context: int) -> int:
        """Tokens of an answer that nothing ends before its time."""
        return min(self.max_tokens, context - len(self.tokens))

    def facts(self) -> dict[str, Any]:
        """As a page shows it."""
        return {"kind": self.kind, "prompt": len(self.tokens), "max_tokens": self.max_tokens}


def requests_of_block(
    texts: Sequence[Sequence[int]],
    context: int,
    max_tokens: int,
    tokens: int,
    seed: int,
    number: int,
) -> list[Request]:
    """Requests whose answers have `tokens` tokens together, unless they end before.

    Args:
        texts: prompts are pieces of these, put one behind another.
        context: of the engine.
        max_tokens: of the longest answer.
        number: of the block; each has requests of its own.
    """
    dice = random.Random(f"{seed}/{number}")
    text = [token for part in dice.sample(list(texts), len(texts)) for token in part]
    stems = [_piece(text, context // 2, dice) for _ in range(STEMS)]
    found: list[Request] = []
    expected = 0
    while expected < tokens:
        kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
        prompt = _prompt(kind, text, stems, found, context, dice)
        longest = max_tokens if kind == "end" else by_magnitude(1, max_tokens, dice)
        request = Request(kind, tuple(prompt), longest, dice.random() < 0.5)
        expected += request.longest(context)
        found.append(request)
    return found


def some_requests(
    texts: Sequence[Sequence[int]], context: int, max_tokens: int, count: int, seed: int
) -> list[Request]:
    """So many, from as many blocks as it takes."""
    found: list[Request] = []
    while len(found) < count:
        number = len(found)
        found += requests_of_block(texts, context, max_tokens, max_tokens, seed, number)
    return found[:count]


def _prompt(
    kind: str,
    text: Sequence[int],
    stems: Sequence[list[int]],
    before: Sequence[Request],
    context: int,
    dice: random.Random,
) -> Sequence[int]:
    if kind == "repeated" and before:
        return dice.choice(before).tokens
    if kind == "one":
        return _piece(text, 1, dice)
    if kind == "end":
        return _piece(text, context - dice.randint(1, min(SPARE, context // 2)), dice)
    if kind == "shared":
        stem = dice.choice(stems)
        own = _piece(text, by_magnitude(1, max(1, context // 4), dice), dice)
        return stem[: dice.randint(1, len(stem))] + own
    return _piece(text, by_magnitude(1, SHORT if kind == "short" else context - 1, dice), dice)


def _piece(text: Sequence[int], length: int, dice: random.Random) -> list[int]:
    """A piece from anywhere, around the end of the text if need be."""
    start = dice.randrange(len(text))
    return [text[(start + place) % len(text)] for place in range(length)]


def by_magnitude(least: int, most: int, dice: random.Random) -> int:
    """Small numbers as often as large ones: the logarithm is spread evenly."""
    return min(most, int(math.exp(dice.uniform(math.log(least), math.log(most + 1)))))
