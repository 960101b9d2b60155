"""Looks: single steps that take another length than the one in use, to learn what it is worth.

One is taken where the other length might be better for all that is known, or where none of its kind
was seen for a while and the text may have changed meanwhile. What looks may cost is bounded
(budget.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_lmtp.length.budget import Budget
from vllm_lmtp.length.choices import Kind, kind_of
from vllm_lmtp.length.patience import MANY, Patience
from vllm_lmtp.length.sizes import Size, Weighed

CURIOUS = 1.5
"""Standard errors a length is given the benefit of when it is asked whether to look at it."""
SHORT_GAP, GAP, CLEARLY = 2, 10, 0.02
"""Steps between looks at least: the former while a size is young, and where the other length seems
better already by such a share, so that a look is rather won than lost. Others are at most one step
in 12."""
EVERY = 4
"""Once a size is not young, steps after which it is asked again whether to look."""
COPIES_TURN = 2
"""Looks at heads after which copies alone are looked at, where they may be better at all."""
PLAIN_STEPS = 3
"""Steps that a look at plain decoding takes, of which the first still verifies drafts."""
LOST = 8
"""Steps after which a look whose drafts were never verified is given up."""
SURELY = 2.0
"""Benefit of a plain step that was not seen for so long."""


@dataclass(frozen=True)
class _Look:
    """A length to look at. benefit: by how much it may be better than the one in use. feared:
    seconds that looking may cost. for_hope: whether that is hoped of it only since its kind was not
    seen for so long."""

    other: Weighed
    benefit: float
    feared: float
    for_hope: bool

    @property
    def kind(self) -> Kind:
        return kind_of(self.other.length)


class Looks:
    """Decides which are taken, one at a time."""

    def __init__(self) -> None:
        self.budget = Budget()
        self.taken = 0
        self._under_way: int | None = None
        self._since = self._since_any = 0
        self._steps = 1  # of the look before
        self._of_heads = 0
        self._patience = {kind: Patience() for kind in Kind}

    def scheduled(self) -> None:
        """One more step is scheduled."""
        self._since += 1
        self._since_any += 1

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

    def drafted(self, asked: int, now: float, shows_text: bool) -> None:
        """Drafts that were asked for so were judged now, and may show what copies are worth."""
        self._patience[kind_of(asked)].seen = now
        if shows_text:
            self._patience[Kind.COPIES].seen = now

    def changed(self) -> None:
        """The text, a time or the length in use changed, so that waiting is not called for."""
        for patience in self._patience.values():
            patience.ends()

    def begin(self, size: Size, young: bool, now: float) -> int | None:
        """The length to look at from this step on, if any.

        Args:
            size: of the batch, weighed. young: whether little is known of it. now: seconds.
        """
        if self._under_way is not None or self._since < self._steps + SHORT_GAP:
            return None
        if not young and self._since % EVERY:
            return None
        self._patience[Kind.NOTHING].seen = size.plain_seen
        unseen = {k: p.is_over(now, size.time.plain) for k, p in self._patience.items()}
        wanted = _wanted(size, unseen)
        if not wanted:
            return None
        # Cheap looks at copies must not keep one from saving for heads. Plain decoding is looked at
        # where that is cheap, which is where it is nearly as good.
        cheapest: dict[bool, float] = {}
        for look in wanted:
            heads = look.kind == Kind.HEADS
            cheapest[heads] = min(look.feared, cheapest.get(heads, look.feared))
        self.budget.save_for(cheapest.get(True, min(cheapest.values())))
        allowed = [look for look in wanted if self.budget.allows(look.feared)]
        # Such looks may follow each other closely, but others get their turn.
        of_any = young or self._since_any > GAP
        if not of_any:
            least = (1 + CLEARLY) * size.of(size.length).rate
            allowed = [look for look in allowed if look.other.rate > least]
        if not allowed:
            return None
        chosen = self._most_promising(allowed)
        if chosen.for_hope:
            self._patience[chosen.kind].grows(size.time.most if chosen.other.length else MANY)
        self.taken += 1
        self._under_way, self._since = chosen.other.length, 0
        self._steps = steps_of(chosen.other.length)
        if of_any:
            self._since_any = 0
        return chosen.other.length

    def _most_promising(self, allowed: list[_Look]) -> _Look:
        """A length of heads may be that for long: copies get their turn."""
        copies = [look for look in allowed if look.kind == Kind.COPIES]
        if self._of_heads >= COPIES_TURN and copies:
            allowed = copies
        chosen = max(allowed, key=lambda look: look.benefit)
        if chosen.kind == Kind.COPIES:
            self._of_heads = 0
        elif chosen.kind == Kind.HEADS:
            self._of_heads += 1
        return chosen


def steps_of(look: int) -> int:
    """Steps that a look at a length takes in a row."""
    return 1 if look else PLAIN_STEPS


def _wanted(size: Size, unseen: Mapping[Kind, bool]) -> list[_Look]:
    """Lengths that might be better than the one in use."""
    used = size.of(size.length)
    found = []
    for other in size.weighed:
        if other.length == size.length:
            continue
        feared = other.seconds + other.seconds_error - other.tokens / used.rate
        feared *= steps_of(other.length)
        # A look at plain decoding tells what its step takes; how many tokens it has is known, and
        # doubt of what drafts cost is for steps with drafts.
        error = other.error if other.length else other.told / other.seconds
        benefit = other.rate * (1 + CURIOUS * error) / used.rate
        hoped = 0.0
        if unseen[kind_of(other.length)]:
            hoped = other.hoped / other.seconds / used.rate if other.length else SURELY
        if max(benefit, hoped) > 1:
            found.append(_Look(other, max(benefit, hoped), feared, hoped > benefit))
    return found
