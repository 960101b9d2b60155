"""What drafts are worth: tokens a step to be expected of m drafts, from what was accepted lately.

A place is counted given the place before it: of the requests whose place p - 1 was accepted, how
many had place p verified and accepted. So when the text changes, what the first places show also
moves the places beyond, which shorter drafts do not show. A place that is seen forgets by tries, or
by seconds where tries are slow to come; one that is not seen keeps its share but loses weight, so
that the next look counts for more. And where the last twenty tries contradict the last hundreds,
the text has changed: what was before is dropped at once.

A second chain of shares counts rows: with a confidence cut fewer are verified than were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TRIES = 300.0
"""Tries after which what was seen before counts 1/e: 2 % of standard error at a share of a half."""
SECONDS = 6.0
"""The same in seconds where tries are fewer, as with one stream."""
UNSEEN_SECONDS = 30.0
"""Seconds after which a place that nobody asked for has lost all but 1/e of its weight."""
FIRST_GUESS = 0.3
"""Share accepted of the first place before anything is known: low, so that the start is safe."""
GUESS_TRIES = 2.0
"""How many tries a guess counts as. Beyond the first place the guess is the place before it."""


NEW_TRIES, CONTRADICTS = 20.0, 3.5
"""Tries after which the newest count 1/e, and standard errors by which they must differ to count as
another text: from 0.1, two steps of eight requests or five of one."""
STALE_TRIES = 8.0
"""What places further on still count for when the text changed before them."""
SOME_SECONDS = 0.05
"""How long steps without drafts go by before what is known fades: not each short one does it."""


@dataclass
class Share:
    """hits of tries, both forgotten over time; new_tries and new_hits, forgotten much sooner."""

    tries: float = 0.0
    hits: float = 0.0
    new_tries: float = 0.0
    new_hits: float = 0.0

    def add(self, tries: float, hits: float, seconds: float) -> bool:
        """Take note of a step of so many seconds; whether the text has changed."""
        if not tries:
            return False
        keep = math.exp(-max(tries / TRIES, seconds / SECONDS))
        self.tries = self.tries * keep + tries
        self.hits = self.hits * keep + hits
        keep = math.exp(-tries / NEW_TRIES)
        self.new_tries = self.new_tries * keep + tries
        self.new_hits = self.new_hits * keep + hits
        usual, new = self.hits / self.tries, self.new_hits / self.new_tries
        error = math.sqrt((usual * (1 - usual) + 0.05) / (2 * self.new_tries))
        if self.new_tries < NEW_TRIES / 4 or abs(new - usual) < CONTRADICTS * error:
            return False
        self.tries, self.hits = self.new_tries, self.new_hits
        return True

    def doubt(self) -> None:
        """The text changed before this place."""
        part = min(1.0, STALE_TRIES / max(self.tries, 1e-9))
        self.tries *= part
        self.hits *= part

    def fade(self, seconds: float) -> None:
        """Let what was not seen for so long lose weight."""
        keep = math.exp(-seconds / UNSEEN_SECONDS)
        self.tries *= keep
        self.hits *= keep

    def estimate(self, guess: float) -> float:
        """The share, with `guess` for a few tries more."""
        return (self.hits + GUESS_TRIES * guess) / (self.tries + GUESS_TRIES)


@dataclass(frozen=True)
class Expected:
    """Of drafts of some length, by request and step.

    tokens: expected, the one the target gives anyway included. doubt: its standard error.
    rows: expected to be verified. drafting: share of requests that have any row verified.
    """

    tokens: float
    doubt: float
    rows: float
    drafting: float


class Worth:
    """Shares of each place.

    Args:
        places: how many a draft can have.
        first: share accepted of the first place before anything is known.
        shown: share of requests that have a first place verified before anything is known.

    Attributes:
        changes: how often the text was found changed.
    """

    def __init__(self, places: int, first: float = FIRST_GUESS, shown: float = 1.0) -> None:
        self.first, self.first_shown = first, shown
        self.accepted = [Share() for _ in range(places)]
        self.shown = [Share() for _ in range(places)]
        self.changes = 0
        self._aside = 0.0
        self._expected: list[Expected] = []

    def observe(
        self,
        num_requests: int,
        asked: int,
        judged: Sequence[int],
        accepted: Sequence[int],
        seconds: float,
    ) -> None:
        """Take note of a step that verified drafts; arguments as in `Step`."""
        self._catch_up()
        self._expected = []
        right = shown = num_requests
        for place in range(len(self.accepted)):
            if place >= asked:
                self.accepted[place].fade(seconds)
                continue
            hits = accepted[place] if place < len(accepted) else 0
            rows = judged[place] if place < len(judged) else 0
            if self.accepted[place].add(right, hits, seconds):
                self.changes += 1
                for further in self.accepted[place + 1 :]:
                    further.doubt()
            self.shown[place].add(shown, rows, seconds)
            right, shown = hits, rows

    def wait(self, seconds: float) -> None:
        """A step without such drafts took so long. Under load most do, so it counts once that
        matters."""
        self._aside += seconds

    def expected(self, length: int) -> Expected:
        """What drafts of `length` places are worth."""
        return self.expectations()[length]

    def expectations(self) -> list[Expected]:
        """As `expected`, for every length from 0 on."""
        if self._aside > SOME_SECONDS:
            self._catch_up()
        if not self._expected:
            self._expected = self._expectations()
        return self._expected

    def _expectations(self) -> list[Expected]:
        found = [Expected(1.0, 0.0, 0.0, 0.0)]
        guess, verified_guess = self.first, self.first_shown
        right, shown, tokens, rows = 1.0, 1.0, 1.0, 0.0
        doubts: list[tuple[float, float]] = []  # of each place: tokens before it, (error / share)^2
        for accepted, verified in zip(self.accepted, self.shown, strict=True):
            share = accepted.estimate(guess)
            odds_against = (1 - share) / max(share, 1e-3)
            doubts.append((tokens, odds_against / (accepted.tries + GUESS_TRIES)))
            right *= share
            tokens += right
            shown *= verified.estimate(verified_guess)
            verified_guess = 1.0
            rows += shown
            # A share that is off by some part moves all that is at or behind its place by as much.
            variance = sum(((tokens - before) ** 2) * part for before, part in doubts)
            drafting = found[-1].drafting or shown
            found.append(Expected(tokens, math.sqrt(variance), rows, drafting))
            guess = share
        return found

    def learnt(self) -> list[tuple[float, float, float]]:
        """Of each place: the share accepted after the one before it, tries behind that, and the
        share verified."""
        shares = zip(self.accepted, self.shown, strict=True)
        return [(a.estimate(0.0), a.tries, s.estimate(1.0)) for a, s in shares]

    def remember(self, places: Sequence[tuple[float, float, float]], most_tries: float) -> None:
        """Begin from what another run learnt, which counts no more tries than so many."""
        self._expected = []
        for place, (share, tries, shown) in enumerate(places):
            tries = min(tries, most_tries)
            self.accepted[place] = Share(tries, tries * share)
            self.shown[place] = Share(tries, tries * shown)

    def _catch_up(self) -> None:
        if self._aside:
            for share in (*self.accepted, *self.shown):
                share.fade(self._aside)
            self._aside, self._expected = 0.0, []
