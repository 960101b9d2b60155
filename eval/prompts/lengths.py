"""How long answers are that go on side by side."""

from __future__ import annotations

import random
from collections.abc import Sequence


def mixed_lengths(tokens: int, count: int) -> list[int]:
    """Lengths of answers that go on side by side, from half of `tokens` to one and a half times it.

    Answers of one length all begin and end together in plain decoding, which no load of requests
    does; with drafts they never do.
    """
    rng = random.Random(0)
    return [max(1, rng.randint(tokens // 2, tokens + tokens // 2)) for _ in range(count)]


def length_of_each(max_tokens: int | Sequence[int], count: int) -> Sequence[int]:
    """The length of each of `count` answers, where all may have one."""
    return [max_tokens] * count if isinstance(max_tokens, int) else max_tokens
