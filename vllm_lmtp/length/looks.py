"""Looks: single steps that take another length than the one in use, to learn what it is worth.

One is taken where the other length might be better for all that is known, or where none of its kind
was seen for a while and the text may have changed meanwhile. What looks may cost is bounded
(budget.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm_lmtp.length.budget import Budget
from vllm_lmtp.length.choices import Kind, kind_of
from vllm_lmtp.length.patience import Patience
from vllm_lmtp.length.sizes import Size, Weighed

CURIOUS = 1.5
"""Standard errors a length is given the benefit of when it is asked whether to look at it."""
SHORT_GAP, GAP = 2, 10
"""Steps between looks at least: the former while a size is young, and where the other length seems
better already, so that a look is rather won than lost. Others are at most one step in 12."""
EVERY = 4
"""Once a size is not young, steps after which it is asked again whether to look."""
COPIES_TURN = 3
"""Looks at heads after which copies alone are looked at, where they may be better at all."""
PLAIN_STEPS = 3
"""Steps that a look at plain decoding takes, of which the first still verifies drafts."""
LOST = 8
"""Steps after which a look whose drafts were never verified is given up."""
SURELY = 2.0
"""Benefit of a plain step that was not seen for so long."""


class Looks:
    """Decides which are taken, one at a time."""

    def __init__(self) -> None:
        self.budget = Budget()
        self.taken = 0
        self._under_way: int | None = None
        self._since = 0
        self._of_heads = 0
        self._patience = {kind: Patience() for kind in Kind}

    def scheduled(self) -> None:
        """One more step is scheduled."""
        self._since += 1

    def goes_on(self) -> int | None:
        """The length of a look that takes this step too; None if there is none."""
        look = self._under_way
        return look if look is not None and self._since < steps_of(look) else None

    def under_way(self) -> bool:
        """Whether the steps of a look are still to be observed."""
        return self._under_way is not None

    def observed(self, asked: int) -> None:
        """A step that asked for so many drafts came back."""
        if self._under_way is not None:
            whole = self._since >= steps_of(self._under_way) - 1
            if (asked == self._under_way and whole) or self._since > LOST:
                self._under_way = None

    def drafted(self, asked: int, now: float) -> None:
        """Drafts that were asked for so were judged now."""
        self._patience[kind_of(asked)].seen = now

    def changed(self) -> None:
        """The text, a time or the length in use changed, so that waiting is not called for."""
        for patience in self._patience.values():
            patience.ends()

    def begin(self, size: Size, young: bool, now: float) -> int | None:
        """The length to look at from this step on, if any.

        Args:
            size: of the batch, weighed. young: whether little is known of it. now: seconds.
        """
        if self._under_way is not None or self._since <= SHORT_GAP:
            return None
        if not young and self._since % EVERY:
            return None
        self._patience[Kind.NOTHING].seen = size.plain_seen
        unseen = {k: p.is_over(now, size.time.plain) for k, p in self._patience.items()}
        wanted = _wanted(size, unseen)
        if not young and self._since <= GAP:
            used = size.of(size.length).rate
            wanted = [one for one in wanted if one[2].rate > used]
        if not wanted:
            return None
        cheapest: dict[Kind, float] = {}
        for _, feared, other in wanted:
            kind = kind_of(other.length)
            cheapest[kind] = min(feared, cheapest.get(kind, feared))
        self.budget.save_for(max(cheapest.values()))
        allowed = [
            (benefit, other) for benefit, feared, other in wanted if self.budget.allows(feared)
        ]
        if not allowed:
            return None
        look = self._most_promising(allowed)
        if unseen[kind_of(look)]:
            self._patience[kind_of(look)].grows()
        self.taken += 1
        self._under_way, self._since = look, 0
        return look

    def _most_promising(self, allowed: list[tuple[float, Weighed]]) -> int:
        """A length of heads may be that for long: copies get their turn."""
        copies = [pair for pair in allowed if pair[1].length < 0]
        if self._of_heads >= COPIES_TURN and copies:
            allowed = copies
        look = max(allowed, key=lambda pair: pair[0])[1].length
        self._of_heads = 0 if look < 0 else self._of_heads + (look > 0)
        return look


def steps_of(look: int) -> int:
    """Steps that a look at a length takes in a row."""
    return 1 if look else PLAIN_STEPS


def _wanted(size: Size, unseen: Mapping[Kind, bool]) -> list[tuple[float, float, Weighed]]:
    """Lengths that might be better than the one in use: by how much, and what looking may cost."""
    used = size.of(size.length)
    found = []
    for other in size.weighed:
        if other.length == size.length:
            continue
        feared = other.seconds + other.seconds_error - other.tokens / used.rate
        feared *= steps_of(other.length)
        benefit = other.rate * (1 + CURIOUS * other.error) / used.rate
        if unseen[kind_of(other.length)] and not shown_by(size.length, other.length):
            hoped = other.hoped / other.seconds / used.rate if other.length else SURELY
            benefit = max(benefit, hoped)
        if benefit > 1:
            found.append((benefit, feared, other))
    return found


def shown_by(used: int, other: int) -> bool:
    """Whether drafts of the length in use tell what the other one's would be worth."""
    return used > 0 and other != 0
