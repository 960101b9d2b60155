"""Chooses how many drafts a request the engine should make, from how its steps went.

Of every length in use the controller knows what it is worth (worth.py) and, for each size of batch,
what it costs (cost.py). The length with the most expected tokens a second is kept until another one
is better by more than chance says (takeover.py). Now and then a single step looks at another one
(looks.py).

The controller has no clock and draws no numbers: the same steps lead to the same choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from vllm_lmtp.length.choices import in_order, num_drafts, spread_lengths
from vllm_lmtp.length.cost import StepTime
from vllm_lmtp.length.filter import Sum
from vllm_lmtp.length.first_times import FirstTimes
from vllm_lmtp.length.knowledge import Knowledge, SizeKnowledge, read
from vllm_lmtp.length.looks import Looks
from vllm_lmtp.length.sizes import Reason, Size, Weighed, size_of
from vllm_lmtp.length.step import Step, believed
from vllm_lmtp.length.takeover import least_gain
from vllm_lmtp.length.worth import Expected, Worth

FIRST_STEPS = 5
"""Timed steps of a size before anything is drafted; their median begins its model, so that one
straggler does no harm."""
YOUNG_STEPS = 200
"""Timed steps of a size up to which looks may follow each other closely."""
COLD = 1
"""Plain steps after one with drafts that find other weights in the caches, 3.1 ms instead of 2.2
with a small model, and are not learnt from where drafts are in use."""
ONCE = 1.5
"""Times what was expected, beyond which a step that may take long for once is not learnt from."""
FIRST_COPY, FIRST_MATCH = 0.4, 0.3
"""Guesses of copies, before any was seen: the share of requests whose first one is accepted, and of
those whose text says anything."""
HOPE = 0.9
"""Share of each place accepted in a text that is as kind as one may hope for."""
CLEARLY = 1.15
"""Speed over plain decoding at half or twice the size, from which a size starts with drafts."""
WARM_DOUBT, WARM_TRIES = 0.1, 30.0
"""What knowledge of an earlier run counts: its variances as a share of those of guesses, and tries
of each place at most."""
EVERY = 4
"""Once a size is not young, steps learnt from after which its lengths are weighed anew."""
LEARN_SECONDS = 0.05
"""Once a size is not young, steps as usual are learnt from no more often, so that the controller
costs an engine of short steps no larger share than one of long ones."""


class Controller:
    """Chooses, and learns from what came of it.

    Args:
        max_drafts: the longest draft.
        lengths: what may be chosen (choices.py); None for few lengths that are spread well.
    """

    def __init__(self, max_drafts: int, lengths: Sequence[int] | None = None) -> None:
        self.lengths = in_order(lengths or spread_lengths(max_drafts))
        places = max(map(num_drafts, self.lengths))
        self.worth = Worth(places)
        self.copies = Worth(places, FIRST_COPY, FIRST_MATCH)
        self.looks = Looks()
        self.sizes: dict[int, Size] = {}
        self.now = 0.0
        self.steps = 0
        self._first_times = FirstTimes()
        self._plain_steps = 0

    def choose(self, num_requests: int) -> int:
        """Drafts a request that the step that is scheduled now should make."""
        self.looks.scheduled()
        size = self._ready(num_requests)
        if size is None:
            return self._at_first(num_requests)
        look = self.looks.goes_on()
        if look is None:
            look = self.looks.begin(size, size.time.steps < YOUNG_STEPS, self.now)
        return size.length if look is None else look

    def observe(self, step: Step) -> None:
        """Learn from a step; steps come in order, each once, however late."""
        self.steps += 1
        seconds = believed(step.seconds)
        self.now += seconds
        self.looks.budget.pay_in(seconds)
        if step.num_requests < 1:
            return
        self._judge(step, seconds)
        self.looks.observed(step.asked)
        if not seconds or step.prefill:
            return
        most = size_of(step.num_requests)
        size = self.sizes.get(most)
        if size is None:
            size = self.sizes[most] = Size(self.lengths, most)
        self._plain_steps = 0 if step.rows or step.wanted else self._plain_steps + 1
        first = self._first_times.note(step.num_requests, step.rows, step.wanted != 0)
        if not size.time.known:
            self._begin(size, step, seconds)
        else:
            if not step.rows:
                size.plain_seen = self.now
            self._learn(size, step, seconds, first)

    def passes(self, num_requests: int, seconds: float) -> bool:
        """Take note of a step without drafts from which nothing is to be learnt now.

        Under load such steps come by the thousand; what is done for each is what they cost.

        Returns:
            False where the step must be observed as others are.
        """
        size = self.sizes.get(size_of(num_requests))
        if size is None or not size.time.known or size.length or self.looks.under_way():
            return False
        if size.time.steps < YOUNG_STEPS:
            return False
        if not believed(seconds) or self.now + seconds - size.time.last_learnt >= LEARN_SECONDS:
            return False
        self.steps += 1
        self.now += seconds
        self.looks.budget.pay_in(seconds)
        self.worth.wait(seconds)
        self.copies.wait(seconds)
        self._plain_steps += 1
        size.plain_seen = self.now
        return True

    def _judge(self, step: Step, seconds: float) -> None:
        """Learn what drafts are worth."""
        if not step.asked:
            self.worth.wait(seconds)
            self.copies.wait(seconds)
            return
        changes = self._changes()
        worth = self._worth_of(step.asked)
        asked = num_drafts(step.asked)
        worth.observe(step.num_requests, asked, step.judged, step.accepted, seconds)
        if worth is self.copies:
            self.worth.wait(seconds)
        elif step.by_text is None:
            self.copies.wait(seconds)
        else:
            self.copies.observe(step.num_requests, asked, *step.by_text, seconds)
        if self._changes() != changes:
            self.looks.changed()
        self.looks.drafted(step.asked, self.now, step.by_text is not None)

    def _learn(self, size: Size, step: Step, seconds: float, first: bool) -> None:
        """Learn what a step costs; first: it may have taken long for once."""
        time = size.time
        usual = step.asked == step.wanted == size.length
        if usual and time.steps >= YOUNG_STEPS and self.now - time.last_learnt < LEARN_SECONDS:
            return
        if size.length and 0 < self._plain_steps <= COLD:
            return
        expected = time.expected(step.num_requests, step.rows, step.wanted)
        if first and seconds > ONCE * expected:
            return
        shifts = time.shifts
        time.observe(seconds, step.num_requests, step.rows, step.wanted, self.now)
        if time.shifts != shifts:
            self.looks.changed()
            size.plain_seen = 0.0
        self._settle(size, step)

    def in_use(self, num_requests: int) -> int:
        """The length in use for so many requests, looks aside."""
        size = self.sizes.get(size_of(num_requests))
        return size.length if size is not None else 0

    def gain(self, num_requests: int) -> float | None:
        """Speed of the length in use over plain decoding; None while the size is not known."""
        size = self._ready(num_requests)
        if size is None:
            return None
        return size.of(size.length).rate / size.of(0).rate

    def reason(self, num_requests: int) -> Reason | None:
        """Why the length in use is; None while the size is not known."""
        size = self._ready(num_requests)
        if size is None:
            return None
        used = size.of(size.length)
        return Reason(used.tokens, used.seconds, size.of(0).seconds)

    def price_of_row(self, num_requests: int) -> float | None:
        """Tokens that could be had in the time that a verified row more takes.

        So a place is worth its row if it and all before it are accepted with a chance above this.
        None while the size is not known.
        """
        size = self._ready(num_requests)
        if size is None:
            return None
        used = size.of(size.length)
        rows = self._expected(size.length).rows
        return min(1.0, size.time.slope(rows) * num_requests * used.rate)

    def costs_alone(self) -> tuple[float, ...] | None:
        """Of one request alone: tokens that could be had in the time that 0, 1, ... rows take.

        A processor may multiply by four rows faster than by two, so one price for each row would
        cut drafts where it costs. None while the size is not known.
        """
        size = self._ready(1)
        if size is None:
            return None
        rate, most = size.of(size.length).rate, max(map(num_drafts, self.lengths))
        return tuple(size.time.verifying(rows) * rate for rows in range(most + 1))

    def state(self) -> dict[str, Any]:
        """What was learnt, for `from_state` of a later run; plain data that JSON can hold."""
        sizes = {
            most: SizeKnowledge(size.time.learnt(), size.time.noise)
            for most, size in sorted(self.sizes.items())
            if size.time.known and size.time.plain > 0
        }
        places, copies = self.worth.learnt(), self.copies.learnt()
        return Knowledge(self.lengths, places, copies, sizes).as_dict()

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], lengths: Sequence[int], where: str = "draft length state"
    ) -> Controller:
        """A controller that knows what another one knew; it doubts it somewhat.

        Args:
            lengths: that may be chosen now.
            where: what to call the state in a refusal, such as its file.

        Raises:
            LMTPError: it is no such state, or is of other lengths.
        """
        new = cls(max(lengths), lengths)
        known = read(state, new.lengths, where)
        new.worth.remember(known.places, WARM_TRIES)
        new.copies.remember(known.copies, WARM_TRIES)
        for most, learnt in known.sizes.items():
            size = new.sizes[most] = Size(new.lengths, most)
            size.time.remember(learnt.seconds, learnt.noise, WARM_DOUBT)
            new.looks.budget.open_size(size.time.plain, first=most == min(known.sizes))
        return new

    def _worth_of(self, choice: int) -> Worth:
        return self.copies if choice < 0 else self.worth

    def _expected(self, choice: int) -> Expected:
        return self._worth_of(choice).expected(num_drafts(choice))

    def _expectations(self) -> dict[int, Expected]:
        heads, copies = self.worth.expectations(), self.copies.expectations()
        return {m: (copies if m < 0 else heads)[num_drafts(m)] for m in self.lengths}

    def _terms(self, time: StepTime, num_requests: int, worth: Expected, choice: int) -> Sum:
        """A step to come in which a choice is in use."""
        return time.expected_terms(num_requests, worth.rows, worth.drafting, choice)

    def _changes(self) -> int:
        """How often the text was found changed."""
        return self.worth.changes + self.copies.changes

    def _ready(self, num_requests: int) -> Size | None:
        size = self.sizes.get(size_of(num_requests)) if num_requests > 0 else None
        if size is None or not size.time.known:
            return None
        self._weigh(size, num_requests)
        return size

    def _nearest(self, most: int) -> Size | None:
        """The known size of batch that is nearest to one."""
        known = [size for size in self.sizes.values() if size.time.known]
        ratio = {
            size.time.most: max(size.time.most / most, most / size.time.most) for size in known
        }
        return min(known, key=lambda s: (ratio[s.time.most], s.time.most), default=None)

    def _at_first(self, num_requests: int) -> int:
        """Nothing, unless drafts pay clearly at half or twice the size."""
        if num_requests < 1:
            return 0
        most = size_of(num_requests)
        near = self._nearest(most)
        if near is None or not near.weighed or not most / 2 <= near.time.most <= most * 2:
            return 0
        used, plain = near.of(near.length), near.of(0)
        if used.rate <= CLEARLY * plain.rate:
            return 0
        upto = self.lengths[: self.lengths.index(near.length) + 1]
        rows = self._expected(near.length).rows * near.time.most
        # No more of them in all than were good there, or one each.
        return next(m for m in reversed(upto) if self._expected(m).rows * most <= max(rows, most))

    def _begin(self, size: Size, step: Step, seconds: float) -> None:
        near = self._nearest(size.time.most)
        part = 1.0
        if near is not None:
            requests, time = near.time.most, near.time
            terms = time.terms(requests, step.rows / step.num_requests, step.wanted)
            part = time.plain / time.seconds(terms)
        size.first.append(seconds * part)
        if len(size.first) < FIRST_STEPS:
            return
        plain = median(size.first)
        size.length = self._at_first(size.time.most)  # while nothing is known of itself
        size.time.begin(plain, self.now, None if near is None else near.time)
        size.plain_seen = self.now
        self.looks.budget.open_size(plain, first=near is None)

    def _weigh(self, size: Size, num_requests: int) -> None:
        time = size.time
        if time.steps - size.weighed_at < (1 if time.steps < YOUNG_STEPS else EVERY):
            return
        size.weighed_at = time.steps
        expected = self._expectations()
        size.weighed = self._against(size, num_requests, expected)
        used = size.of(size.length)
        # The best of all, or else copies, of which less is asked.
        best = max(size.weighed, key=lambda w: w.rate)
        copies = [w for w in size.weighed if w.length < 0]
        for other in (best, *copies):
            if other.rate <= used.rate * (1 + least_gain(size.length, other, self.lengths)):
                continue
            size.length = other.length
            self.looks.changed()
            size.weighed = self._against(size, num_requests, expected)
            break

    def _against(
        self, size: Size, num_requests: int, expected: Mapping[int, Expected]
    ) -> list[Weighed]:
        """All lengths, against the one in use."""
        time = size.time
        used = expected[size.length]
        used_terms = self._terms(time, num_requests, used, size.length)
        found = []
        for length in self.lengths:
            hoped = sum(HOPE**place for place in range(num_drafts(length) + 1))
            worth = expected[length]
            terms = self._terms(time, num_requests, worth, length)
            seconds = time.seconds(terms)
            late = 0.0 if length == size.length else time.difference(terms, used_terms)
            told = time.told(terms, used_terms) if size.length and not length else 0.0
            doubt = abs(worth.doubt - used.doubt) / worth.tokens
            error = ((late / seconds) ** 2 + doubt**2) ** 0.5
            found.append(Weighed(length, worth.tokens, seconds, error, late, told, hoped))
        return found

    def _settle(self, size: Size, step: Step) -> None:
        """What a step cost that was not as the length in use has it."""
        if not size.weighed or (step.asked == size.length and step.wanted == size.length):
            return
        time, used = size.time, size.of(size.length)
        worth = self._expected(size.length)
        as_used = time.seconds(self._terms(time, step.num_requests, worth, size.length))
        rows = step.rows / step.num_requests
        took = time.seconds(time.terms(step.num_requests, rows, step.wanted))
        cost = took - as_used
        if step.asked != size.length:
            tokens = 1 + sum(step.accepted) / step.num_requests
            cost -= (tokens - used.tokens) / used.rate
        self.looks.budget.settle(cost)
