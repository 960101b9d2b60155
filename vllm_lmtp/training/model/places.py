"""Drafts filled as they are served, with the true tokens: what heads and their term learn from.

Every position is taken for the newest one of an engine step. Its draft reads each head on the rows
at the lags of backward decoding (arXiv 2505.17505, section 3), and a term all true tokens before
the place; the place is to name the token that comes there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.markov import MarkovTerm


@dataclass(frozen=True)
class Place:
    """One place of N drafts.

    number: from 0. head: that fills it. rows: [N, H], what its output matrix reads. state: [N, r],
    the term's; None without one.
    """

    number: int
    head: int
    rows: Tensor
    state: Tensor | None

    def products(self, heads: LeapHeads, term: MarkovTerm | None) -> list[tuple[Tensor, Tensor]]:
        """The rows and matrices whose products add up to the logits."""
        found = [(self.rows, heads[self.head].lm_head.weight)]
        if term is not None and self.state is not None:
            found.append((self.state, term.output_of(self.head)))
        return found


def places(
    heads: LeapHeads,
    term: MarkovTerm | None,
    schedule: LeapSchedule,
    rows: Tensor,
    tokens: Tensor,
    counts: list[int] | None = None,
) -> Iterator[Place]:
    """The places of the drafts at some positions, in draft order.

    Without a term a head learns the same from a row at every lag, so only lag 0 is filled.

    Args:
        rows: [N, >= k, H], the last k rows of each position, its own last; more may follow.
        tokens: int64 [N, >= places], the token sampled there and those that came after it.
        counts: of each place, at how many of the positions, the first ones, it is filled; None for
            all.
    """
    stride, num_places = schedule.stride, schedule.max_drafts
    newest = stride - 1
    counts = counts or [len(rows)] * num_places
    state = None if term is None else term.begin(rows[:, newest])
    for number, source in enumerate(schedule.sources(num_places)):
        count = counts[number]
        if term is not None:
            assert state is not None
            state = term.read(state[:count], tokens[:count, number])
        elif source.lag:
            continue
        read = heads[source.head].trunk(rows[:count, newest - source.lag])
        yield Place(number, source.head, read, state)
