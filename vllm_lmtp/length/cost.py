"""How long a step takes for so many requests, rows and drafts: one model for each size of batch.

    seconds = plain + more requests + (are heads asked) + (how many drafts of them)
              + (is only the text looked through) + (is any row verified) + extra(rows a request)

`extra` is any curve through the lengths in use, linear between them: rows may be free up to some
point and dear beyond it (a knee), and a kernel's tiles make steps of it. It starts from a line with
room for bends, so one look at a long draft says something of the shorter ones too. The parts add,
so a single step of another length than its neighbours tells what the length would cost for good,
whichever of its two steps the clock books the drafting to.

What changes quickly and what does not are forgotten apart. The plain step wanders by 3 % a root
second, for contexts grow and machines are shared; what drafts cost beyond it by 1 %. Since the
plain step wanders more, a change that comes while only one length is in use is booked there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vllm_lmtp.length.choices import asked_of_heads
from vllm_lmtp.length.filter import FAR, Filter, Sum

PLAIN_WANDERS = 0.03
"""Share of itself by which the plain step wanders in a second: with a clock 5 % off, it is followed
within 10 steps of 50 ms; with one 20 % off, within 30."""
EXTRA_WANDERS = 0.01
"""Share of the plain step by which the cost of the longest draft wanders in a second."""
AWAY = 0.3
"""Share of itself by which the plain step may have moved while a size was not in use."""
LEAST_NOISE, FIRST_NOISE, NOISE_STEPS = 0.01, 0.2, 50.0
"""Noise of a step's clock as a share of the step: at least, at first, and steps to learn it."""
SHIFTED = 4
"""Outliers in a row, all to one side, after which what was known no longer holds."""

ROW_GUESS, TOTAL_GUESS = 0.03, 0.5
"""Guess of what a row costs before any was seen, as a share of the plain step: of one row, and of
one more for every request. Too dear rather than too cheap: drafting must earn its way."""
LINE_DOUBT, BEND_DOUBT, DRAFTING_DOUBT, SMALL_DOUBT = 0.3, 0.1, 0.4, 0.05
"""Standard errors of guesses as shares of the plain step: of a row more for every request, of the
bend at each further row, of what drafting costs, and of what is small."""
SMALL_GUESS = 0.02
"""What looking through the text costs before it was seen, as a share of the plain step, and what
judging any drafts at all does beside their rows: another sampler, which copies all logits."""
SOME_SECONDS = 0.25
"""How often what wanders slowly is let wander; the plain step does at every step."""

PLAIN, REQUESTS, DRAFTING, PER_DRAFT, LOOKING, VERIFYING, EXTRA = range(7)
"""Unknowns, all in seconds and at the most requests of the size: the plain step; what half the
requests less would save, twice; drafting by heads at all; the longest draft beyond that; looking
for copies alone; verifying any row at all; and from EXTRA on what the rows of each length above 0
cost beyond that."""


class StepTime:
    """The model of one size of batch.

    Args:
        lengths: draft lengths in use, ascending, 0 first.
        most: the most requests of the size; it is for more than half of them.

    Attributes:
        noise: of the clock, as a share of a step. steps: learnt from. shifts: how often what was
            known no longer held.
    """

    def __init__(self, lengths: Sequence[int], most: int) -> None:
        self.lengths = tuple(lengths)
        self.most = most
        self.steps = 0
        self.noise = FIRST_NOISE
        self._filter: Filter | None = None
        self._seen = 0.0
        self._aside = 0.0
        self._streak = 0
        self._most_doubt = 0.0
        self.shifts = 0

    @property
    def last_learnt(self) -> float:
        """Seconds since the controller began at the last step that was learnt from."""
        return self._seen

    @property
    def known(self) -> bool:
        """Whether there is a model."""
        return self._filter is not None

    @property
    def plain(self) -> float:
        """Seconds of a plain step with the most requests of the size."""
        return self._known().mean[PLAIN]

    def begin(self, plain: float, now: float, near: StepTime | None = None) -> None:
        """Make a model.

        Args:
            plain: seconds of a plain step, roughly.
            now: seconds since the controller began.
            near: the model of the nearest size that has one; None for cautious guesses.
        """
        unit, longest = plain, self.lengths[-1]
        small = SMALL_GUESS * unit
        mean = [plain, 0.3 * unit, 0.1 * unit, 0.1 * unit, small, small]
        if near is None:
            row = min(ROW_GUESS, TOTAL_GUESS / self.most) * unit
            mean += [row * self.most * length for length in self.lengths[1:]]
            doubt = 1.0
        else:
            mean[DRAFTING:EXTRA] = near._known().mean[DRAFTING:EXTRA]
            mean += self._guess_from(near, plain)
            doubt = min(1.0, 0.15 * 3.0 ** (abs(math.log2(self.most / near.most)) - 1))
        size = len(mean)
        spread = [[0.0] * size for _ in range(size)]
        spread[PLAIN][PLAIN] = (AWAY * unit) ** 2
        spread[REQUESTS][REQUESTS] = (0.3 * unit) ** 2
        for i in (DRAFTING, PER_DRAFT):
            spread[i][i] = doubt * (DRAFTING_DOUBT * unit) ** 2
        for i in (LOOKING, VERIFYING):
            spread[i][i] = doubt * (SMALL_DOUBT * unit) ** 2
        for i, a in enumerate(self.lengths[1:], EXTRA):
            for j, b in enumerate(self.lengths[1:], EXTRA):
                line, bends = a * b * LINE_DOUBT**2, min(a, b) * BEND_DOUBT**2
                spread[i][j] = doubt * unit**2 * (line + bends)
        self._filter = Filter(mean, spread)
        self._most_doubt = unit**2 * (longest**2 * LINE_DOUBT**2 + longest * BEND_DOUBT**2)
        self._seen = now

    def _guess_from(self, near: StepTime, plain: float) -> list[float]:
        """What verifying costs here if a row costs what it does there at as many rows in all.

        Rows tend to get dearer the more there are, so they cost no less here than requests did
        between the two sizes: this keeps free rows at one stream from promising free rows at 32.
        """

        def there(rows: float) -> float:
            return near.extra(rows / near.most - 1)

        floor = 0.0
        if self.most > near.most:
            floor = max(0.0, (plain - near.plain) / (self.most - near.most))
        own = there(self.most)
        return [
            max(there(self.most * (1 + length)) - own, floor * self.most * length)
            for length in self.lengths[1:]
        ]

    def slope(self, rows: float) -> float:
        """Seconds that a verified row more costs where each request has so many; never below 0."""
        low, high = max(0.0, rows - 1), min(rows + 1, self.lengths[-1])
        return max(0.0, (self.extra(high) - self.extra(low)) / (high - low) / self.most)

    def verifying(self, rows: int) -> float:
        """Seconds that so many rows of each request take."""
        terms = self.terms(self.most, rows, 0)
        return self._known().value([(i, weight) for i, weight in terms if i >= VERIFYING])

    def learnt(self) -> list[float]:
        """The unknowns, seconds: plain, requests, drafting, per draft, looking, verifying, and the
        extra of each length."""
        return list(self._known().mean)

    def remember(self, learnt: Sequence[float], noise: float, doubt: float) -> None:
        """Begin from what another run learnt, with so much of the doubt of guesses."""
        self.begin(learnt[PLAIN], now=0.0)
        found = self._known()
        found.mean = list(learnt)
        found.spread = [[doubt * s for s in row] for row in found.spread]
        self.noise = noise

    def extra(self, rows: float) -> float:
        """Seconds that so many rows a request cost at the most requests; beyond the longest draft
        the last slope goes on, and below none the first."""
        return self._known().value(self._extra_terms(rows))

    def expected(self, num_requests: int, rows: int, wanted: int) -> float:
        """Seconds of a step with so many rows over all requests; wanted: as chosen."""
        return self.seconds(self.terms(num_requests, rows / num_requests, wanted))

    def observe(
        self,
        seconds: float,
        num_requests: int,
        rows: int,
        wanted: int,
        now: float,
    ) -> None:
        """Learn from one step, once there is a model; wanted: as chosen (choices.py)."""
        found = self._known()
        self._let_wander(found, now)
        self.steps += 1
        terms = self.terms(num_requests, rows / num_requests, wanted)
        expected = max(found.value(terms), 0.1 * seconds, 1e-9)
        noise = (self.noise * expected) ** 2
        unsure = found.variance(terms)
        off, errors = found.update(terms, seconds, noise)
        self._streak = 0 if abs(errors) < FAR else self._streak + (1 if errors > 0 else -1)
        if abs(self._streak) >= SHIFTED:
            self._shift(found, seconds / expected, off, plain=not rows and not wanted)
        elif unsure < noise:  # else the model is off, not the clock
            seen = min(abs(off) / expected, 3 * self.noise) ** 2
            self.noise = max(
                LEAST_NOISE,
                math.sqrt(
                    self.noise**2 + (seen - self.noise**2) / min(NOISE_STEPS, self.steps + 5)
                ),
            )

    def _shift(self, found: Filter, ratio: float, off: float, plain: bool) -> None:
        """What was known no longer holds.

        If plain steps say so the machine runs at another speed, and all that a step consists of
        with it. Others may also say that drafts cost more or less than guessed: all is open then.
        """
        if plain:
            ratio = min(4.0, max(0.25, ratio))
            found.mean = [ratio * m for m in found.mean]
            found.spread = [[ratio**2 * s for s in row] for row in found.spread]
        else:
            self._add_extra_doubt(found, off**2)
        found.spread[PLAIN][PLAIN] += (off / 2) ** 2
        self._streak = 0
        self.shifts += 1

    def _add_extra_doubt(self, found: Filter, variance: float) -> None:
        """Of what the longest draft costs to verify; shorter ones in proportion, and some apart."""
        longest = self.lengths[-1]
        for i, a in enumerate(self.lengths[1:], EXTRA):
            for j, b in enumerate(self.lengths[1:], EXTRA):
                line, bends = a * b / longest**2, min(a, b) / longest
                found.spread[i][j] += variance * (0.7 * line + 0.3 * bends)

    def expected_terms(self, num_requests: int, rows: float, drafting: float, wanted: int) -> Sum:
        """As `terms`, of a step to come.

        Where no request has a row the step is a plain one, and the first row may cost far more than
        others: with one stream a processor then multiplies by a matrix instead of a vector.

        Args:
            rows: of each request, expected. drafting: share of requests that have any.
            wanted: as chosen.
        """
        some = 1 - (1 - min(1.0, drafting)) ** num_requests
        if not rows or some <= 0:
            return self.terms(num_requests, 0.0, wanted)
        with_rows = self.terms(num_requests, rows / some, 0)
        terms = [*self.terms(num_requests, 0.0, wanted)]
        terms += ((i, some * weight) for i, weight in with_rows if i >= VERIFYING)
        return terms

    def terms(self, num_requests: int, rows: float, wanted: int) -> Sum:
        """The step as a sum of unknowns; rows: of each request. wanted: as chosen."""
        share = num_requests / self.most
        terms = [(PLAIN, 1.0)]
        if share != 1:
            terms.append((REQUESTS, share - 1))
        if heads := asked_of_heads(wanted):
            terms += ((DRAFTING, 1.0), (PER_DRAFT, heads / self.lengths[-1]))
        elif wanted:
            terms.append((LOOKING, 1.0))
        if rows:
            terms.append((VERIFYING, 1.0))
            terms += ((i, weight * share) for i, weight in self._extra_terms(rows))
        return terms

    def seconds(self, terms: Sum) -> float:
        """What such a step takes; never less than a tenth of a plain one."""
        found = self._known()
        return max(found.value(terms), 0.1 * found.mean[PLAIN], 1e-9)

    def difference(self, one: Sum, other: Sum) -> float:
        """Standard error of how much longer one step takes than the other, seconds."""
        return math.sqrt(max(0.0, self._known().variance(_minus(one, other))))

    def told(self, one: Sum, other: Sum) -> float:
        """The part of that error which observing the one would take away."""
        found = self._known()
        noise = (self.noise * self.seconds(one)) ** 2
        shared = found.covariance(one, _minus(one, other))
        return abs(shared) / math.sqrt(found.variance(one) + noise)

    def _extra_terms(self, rows: float) -> list[tuple[int, float]]:
        lengths = self.lengths
        upper = 1
        while upper < len(lengths) - 1 and rows > lengths[upper]:
            upper += 1
        low, high = lengths[upper - 1], lengths[upper]
        weight = (rows - low) / (high - low)
        terms = [(EXTRA + upper - 1, weight)]
        if upper > 1:
            terms.append((EXTRA + upper - 2, 1 - weight))
        return terms

    def _let_wander(self, found: Filter, now: float) -> None:
        seconds, self._seen = now - self._seen, now
        plain, spread = found.mean[PLAIN], found.spread
        spread[PLAIN][PLAIN] += min(PLAIN_WANDERS**2 * seconds, AWAY**2) * plain**2
        self._aside += seconds
        if self._aside < SOME_SECONDS:
            return
        some = EXTRA_WANDERS**2 * self._aside * plain**2
        self._aside = 0.0
        for i in (REQUESTS, DRAFTING, PER_DRAFT):
            if spread[i][i] < (0.25 * DRAFTING_DOUBT * plain) ** 2:
                spread[i][i] += some / 4
        for i in (LOOKING, VERIFYING):
            if spread[i][i] < (0.5 * SMALL_DOUBT * plain) ** 2:
                spread[i][i] += some / 4
        if spread[-1][-1] < self._most_doubt:
            self._add_extra_doubt(found, min(some, self._most_doubt))

    def _known(self) -> Filter:
        if self._filter is None:
            raise RuntimeError("no step of this size was timed yet")
        return self._filter


def _minus(one: Sum, other: Sum) -> list[tuple[int, float]]:
    """The difference of two sums, without what cancels."""
    total: dict[int, float] = dict(one)
    for i, weight in other:
        total[i] = total.get(i, 0.0) - weight
    return [(i, weight) for i, weight in total.items() if weight]
