"""Which successor table serves some heads best, found on answers that they did not learn from.

Every combination of size, weight and pseudo-counts drafts after every position of the answers, with
the decoder that serves it, and what would be accepted is counted. A draft's token is right if it is
the token that came: under greedy answers what a greedy target accepts, and under sampled ones, on
the average, what a target accepts that samples at their temperature.

The heads' logits do not depend on the table, so they are computed once for all combinations; and a
smaller table is the first columns of a larger one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vllm_lmtp.eval.offline.beam import Beam, search
from vllm_lmtp.eval.statistics import share
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.formats.read import draft_vocabulary
from vllm_lmtp.method.scorer import Scorer, SuccessorTable, local_successors
from vllm_lmtp.tools.scorers.successors import Pairs, best_successors
from vllm_lmtp.training.data.kept_rows import Answer
from vllm_lmtp.training.judging.observed_drafts import (
    PlainHeads,
    Steps,
    decoder_of,
    own_scorer,
    steps_of,
)

NONE, OWN, TABLE = "none", "own", "table"
ALIKE = 2.0
"""Standard errors of a difference within which nobody should call one of two better."""


@dataclass(frozen=True)
class Table:
    """A table to try. size, weight, pseudo_counts: docs/scorer.md. counted: tokens of the text that
    it is counted on; None for all. refreshed: every answer is counted too once it was drafted."""

    size: int
    weight: float
    pseudo_counts: float
    counted: int | None = None
    refreshed: bool = False


@dataclass(frozen=True)
class Candidate:
    """What drafts. kind: "none", the heads alone; "own", with the folder's scorer; or "table".
    beam: how drafts are searched; None for the decoder's way."""

    kind: str
    table: Table | None = None
    beam: Beam | None = None

    def plain(self) -> Candidate:
        """The same as it is served: with the best token of each place, and a table that stays."""
        table = None if self.table is None else replace(self.table, refreshed=False)
        return Candidate(self.kind, table)

    def facts(self) -> dict[str, Any]:
        """It as JSON."""
        facts: dict[str, Any] = {"scorer": self.kind}
        if self.table is not None:
            facts |= asdict(self.table)
        return facts | ({} if self.beam is None else {"beam": str(self.beam)})


@dataclass
class Tally:
    """What one candidate's drafts were worth: of each answer, how many drafts had their first n
    tokens right, for every n, and how many drafts there were."""

    candidate: Candidate
    accepted: list[list[int]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def tokens(self) -> list[int]:
        """Of each answer, how many drafted tokens would be accepted."""
        return [sum(row) for row in self.accepted]


class RememberingHeads(PlainHeads):
    """Heads that are asked for the same rows again and again, and compute them once."""

    def __init__(self, checkpoint: HeadsCheckpoint) -> None:
        super().__init__(checkpoint)
        self._kept: dict[int, Tensor] = {}

    def forget(self) -> None:
        """What is asked for next are other rows."""
        self._kept.clear()

    def logits(self, rows: Tensor, head: int) -> Tensor:
        """[N, H] -> [N, D], the caller's to overwrite."""
        if head not in self._kept:
            self._kept[head] = super().logits(rows, head)
        return self._kept[head].clone()


def tables(
    sizes: Sequence[int],
    weights: Sequence[float],
    pseudo_counts: Sequence[float],
    counted: Sequence[int | None] = (None,),
    refreshed: Sequence[bool] = (False,),
) -> list[Table]:
    """All combinations, without repetition, sizes varying slowest."""
    every = itertools.product(sizes, weights, pseudo_counts, counted, refreshed)
    return list(dict.fromkeys(Table(*values) for values in every))


def candidates(
    checkpoint: HeadsCheckpoint, wanted: Sequence[Table], beams: Sequence[Beam]
) -> list[Candidate]:
    """The heads alone, with the scorer they have, and with every table; searched too, by each beam,
    where there is a scorer."""
    scored: list[Candidate] = [Candidate(TABLE, table) for table in wanted]
    if checkpoint.scorer is not None:
        scored.insert(0, Candidate(OWN))
    searched = [Candidate(c.kind, c.table, beam) for c in scored for beam in (None, *beams)]
    return [Candidate(NONE), *searched]


@torch.no_grad()
def sweep(
    checkpoint: HeadsCheckpoint,
    counts: dict[int | None, Pairs],
    answers: Sequence[Answer],
    wanted: Sequence[Candidate],
    say: Callable[[str], None] = lambda text: None,
) -> list[Tally]:
    """Draft after every position of the answers with every candidate.

    Args:
        counts: what was counted, by `Table.counted`.
        say: is told now and then how far it is.
    """
    heads = RememberingHeads(checkpoint)
    places = checkpoint.schedule.max_drafts
    tallies = [Tally(candidate) for candidate in wanted]
    scorers = _Scorers(checkpoint, wanted)
    scorers.count(counts, refreshed=False)
    seen: list[Tensor] = []
    for number, answer in enumerate(answers):
        if scorers.refreshing:
            now = {tokens: pairs.and_those_of(seen) for tokens, pairs in counts.items()}
            scorers.count(now, refreshed=True)
            seen.append(torch.tensor(answer.tokens))
        for tally in tallies:
            tally.accepted.append([0] * places)
            tally.positions.append(0)
        for steps in steps_of(answer, checkpoint.schedule):
            heads.forget()
            for tally in tallies:
                scorer = scorers.of(tally.candidate)
                draft = _draft(checkpoint, heads, scorer, tally.candidate.beam, steps)
                right = (draft == steps.truth).cumprod(dim=1).sum(dim=0).tolist()
                tally.accepted[-1] = [a + r for a, r in zip(tally.accepted[-1], right, strict=True)]
                tally.positions[-1] += int((steps.truth[:, 0] >= 0).sum())
        if number % 20 == 19:
            say(f"{number + 1} of {len(answers)} answers")
    return tallies


def summary(tallies: Sequence[Tally]) -> dict[str, Any]:
    """The acceptance lengths as JSON, with standard errors that take answers as independent.

    Returns:
        {"results": [{what it is, "accepted": [share of drafts with the first n tokens right],
        "length", "se", "behind", "behind_se"}], "best": the number of the best table, "alike": the
        numbers of those that cannot be told from it}. `behind` is how much shorter than the best's
        a length is, answer by answer, so its error is much smaller than that of a length. What was
        searched or refreshed has "gain" and "gain_se" too, over the same as it is served.
    """
    served = [t for t in tallies if _can_be_served(t.candidate)]
    best = max(served, key=_length)
    results = []
    found = {tally.candidate: tally for tally in tallies}
    for tally in tallies:
        own = share(list(zip(tally.tokens(), tally.positions, strict=True)))
        behind = _difference(best, tally)
        drafts = sum(tally.positions)
        row = tally.candidate.facts() | {
            "accepted": [sum(column) / drafts for column in zip(*tally.accepted, strict=True)],
            "length": 1 + own["rate"],
            "se": own["se"],
            "behind": behind["rate"],
            "behind_se": behind["se"],
        }
        served_so = found.get(tally.candidate.plain(), tally)
        if served_so is not tally:
            gain = _difference(tally, served_so)
            row |= {"gain": gain["rate"], "gain_se": gain["se"]}
        results.append(row)
    number = tallies.index(best)
    alike = [
        i
        for i, (tally, r) in enumerate(zip(tallies, results, strict=True))
        if i != number
        and _can_be_served(tally.candidate)
        and r["behind"] <= ALIKE * (r["behind_se"] or 0.0)
    ]
    return {"results": results, "best": number, "alike": alike}


def first_tokens(passages: Sequence[Tensor], most: int | None) -> Iterator[Tensor]:
    """The first `most` tokens of some passages, the last one cut; all for None."""
    left = most
    for passage in passages:
        if left is None:
            yield passage
        elif left > 0:
            yield passage[:left]
            left -= len(passage)


class _Scorers:
    """The scorer of every candidate; tables that differ in size and weight alone share memory."""

    def __init__(self, checkpoint: HeadsCheckpoint, wanted: Sequence[Candidate]) -> None:
        self.checkpoint = checkpoint
        self.own = own_scorer(checkpoint)
        self.drafted = draft_vocabulary(checkpoint)
        self.tables = [c.table for c in wanted if c.table is not None]
        self.refreshing = any(t.refreshed for t in self.tables)
        self._made: dict[tuple[int | None, float, bool], tuple[Tensor, Tensor]] = {}

    def count(self, counts: dict[int | None, Pairs], refreshed: bool) -> None:
        """Make the tables, of those that are refreshed or of the others, anew."""
        rows = self.checkpoint.output_rows
        ours = [t for t in self.tables if t.refreshed == refreshed]
        size = min(max((t.size for t in ours), default=1), rows)
        for tokens, pseudo in dict.fromkeys((t.counted, t.pseudo_counts) for t in ours):
            table = best_successors(counts[tokens], self.drafted, size, pseudo)
            local = local_successors(table.ids, table.ratios, 0, rows)
            self._made[tokens, pseudo, refreshed] = local

    def of(self, candidate: Candidate) -> Scorer | None:
        """As it is now."""
        table = candidate.table
        if table is None:
            return self.own if candidate.kind == OWN else None
        places, ratios = self._made[table.counted, table.pseudo_counts, table.refreshed]
        rows = torch.arange(self.checkpoint.vocab_size)
        return SuccessorTable(places[:, : table.size], ratios[:, : table.size], rows, table.weight)


def _draft(
    checkpoint: HeadsCheckpoint,
    heads: PlainHeads,
    scorer: Scorer | None,
    beam: Beam | None,
    steps: Steps,
) -> Tensor:
    schedule = checkpoint.schedule
    if beam is not None and scorer is not None:
        return search(heads, scorer, schedule, steps.states, steps.sampled, beam)
    decoder = decoder_of(checkpoint, heads, scorer)
    return decoder.fill(steps.states, steps.sampled, schedule.max_drafts, None)


def _difference(left: Tally, right: Tally) -> dict[str, Any]:
    more = [a - b for a, b in zip(left.tokens(), right.tokens(), strict=True)]
    return share(list(zip(more, left.positions, strict=True)))


def _can_be_served(candidate: Candidate) -> bool:
    """Whether it is a table that `scorer build` can write."""
    return candidate.table is not None and not candidate.table.refreshed and candidate.beam is None


def _length(tally: Tally) -> float:
    return 1 + sum(tally.tokens()) / max(1, sum(tally.positions))
