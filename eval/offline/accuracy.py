"""How often heads name the right token, from the ranks they gave it: pure maths on ranks.

A *text* is one answer: `tokens` [L], of which the first `prompt` are the end of its prompt, and for
each head the ids of its best tokens on every row [L, K]. Only tokens of the answer are predicted,
and only rows from the prompt's last on are read, earlier ones serving as lagged rows. Every share
is over the positions that have a token that far ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vllm_lmtp.eval.offline.theory import (
    attenuated,
    break_even,
    expected_length,
    fit_attenuation,
    length_of,
)
from vllm_lmtp.eval.offline.trees import best_tree
from vllm_lmtp.eval.statistics import jackknife, share
from vllm_lmtp.method.leap import LeapSchedule

TOPS = (1, 5, 10, 20)
MOST_TOP = max(TOPS)
# Guesses for one place that a tree may hold, as in the reference.
BRANCHES = range(10)


@dataclass(frozen=True)
class RankedText:
    """tokens: [L] int64. prompt: how many of them are the prompt's, at least 1. tops: for each head
    [L, K] int64, best first. group: the column it counts in."""

    tokens: torch.Tensor
    prompt: int
    tops: tuple[torch.Tensor, ...]
    group: str = ""

    def ranks(self, head: int, offset: int) -> torch.Tensor:
        """Rank (0 is best) that a head gave to the token `offset` ahead of each row.

        Returns:
            [L - offset] int64, empty where the text is too short; K where the token is not among
            the K best.
        """
        truth = self.tokens[offset:]
        if not len(truth):
            return torch.empty(0, dtype=torch.int64)
        top = self.tops[head][: len(truth)]
        hit = top == truth.unsqueeze(1)
        return torch.where(hit.any(dim=1), hit.int().argmax(dim=1), top.shape[1])


def by_offset(texts: Sequence[RankedText], n_heads: int, max_offset: int) -> list[dict[str, Any]]:
    """The accuracies of every head at every offset 1..max_offset."""
    table = []
    for head in range(n_heads):
        for offset in range(1, max_offset + 1):
            ranks = [text.ranks(head, offset)[text.prompt - 1 :] for text in texts]
            table.append({"head": head, "offset": offset} | _tops(ranks))
    return table


def by_place(texts: Sequence[RankedText], schedule: LeapSchedule) -> list[dict[str, Any]]:
    """The accuracies of every row of a draft, whatever became of the places before it; "ranks" are
    the shares of the true tokens that have rank 0, 1, ..."""
    table = []
    for place, source in enumerate(schedule.sources(schedule.max_drafts)):
        ranks = [_places(text, schedule)[place] for text in texts]
        exact = [share([(int((r == n).sum()), len(r)) for r in ranks])["rate"] for n in BRANCHES]
        where = {"place": place, "offset": place + 2, "head": source.head, "lag": source.lag}
        table.append(where | _tops(ranks) | {"ranks": exact})
    return table


def chain(texts: Sequence[RankedText], schedule: LeapSchedule, top: int) -> dict[str, Any]:
    """What a chain would get whose every place picks the right token if it is among the `top` best.

    top = 1 is the chain as it is served without a scorer; the others are upper bounds of what
    better choosing could gain. Each text is walked step by step as the engine would, and a place
    counts in the steps that have a token that far ahead.

    Returns:
        {"steps", "reached": [share, ...], "length": {"value", "se"}}; reached[p] is how often the
        first p + 1 places are all right; length is 1 + the sum of these.
    """
    places = schedule.max_drafts
    walks = [_walk(text, schedule, top) for text in texts]
    parts = [[*accepted, *tried] for accepted, tried, _ in walks]

    def length(totals: Sequence[float]) -> float | None:
        if not totals[places]:
            return None
        pairs = zip(totals[:places], totals[places:], strict=True)
        return 1 + sum(a / t for a, t in pairs if t)

    return {
        "steps": sum(steps for _, _, steps in walks),
        "reached": [share([(a[p], t[p]) for a, t, _ in walks]) for p in range(places)],
        "length": jackknife(parts, length),
    }


def coverage(texts: Sequence[RankedText], vocabulary: torch.Tensor | None) -> dict[str, Any]:
    """The share of the answers' tokens that heads can name at all, and by group.

    Args:
        vocabulary: [D] ids of the draft vocabulary; None for heads over the whole one.
    """

    def of(chosen: Sequence[RankedText]) -> dict[str, Any]:
        answers = [text.tokens[text.prompt :] for text in chosen]
        if vocabulary is None:
            return share([(len(a), len(a)) for a in answers])
        return share([(int(torch.isin(a, vocabulary).sum()), len(a)) for a in answers])

    groups = dict.fromkeys(text.group for text in texts)
    return of(texts) | {"by_group": {g: of([t for t in texts if t.group == g]) for g in groups}}


def lengths(
    schedule: LeapSchedule, own: Sequence[dict[str, Any]], places: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The attenuation of heads at their own offsets, and the lengths that follow from it.

    Args:
        own: the entries of `by_offset` in which each head is at its own offset.
        places: `by_place`.
    """
    points = [(e["offset"], e["top1"]["hits"], e["top1"]["tries"]) for e in own]
    g = fit_attenuation(points)
    n, k = schedule.n_heads, schedule.stride
    found: dict[str, Any] = {
        "attenuation": g,
        "break_even": break_even(schedule) if k > 1 else None,
        "independent_places": length_of([e["top1"]["rate"] or 0.0 for e in places]),
    }
    if g is None:
        return found
    f = attenuated(g)
    return found | {
        "fitted": [{"offset": e["offset"], "rate": f(e["offset"])} for e in own],
        "paper": expected_length(schedule, f),
        "paper_adjacent_same_heads": expected_length(LeapSchedule(n, 1), f),
        "paper_adjacent_same_horizon": expected_length(LeapSchedule(n * k, 1), f),
    }


def summarise(
    texts: Sequence[RankedText],
    schedule: LeapSchedule,
    max_offset: int,
    vocabulary: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Everything that a report says about the heads on these texts."""
    table = by_offset(texts, schedule.n_heads, max_offset)
    own = [e for e in table if e["offset"] == schedule.offset_of_head(e["head"])]
    places = by_place(texts, schedule)
    return {
        "answers": len(texts),
        "tokens": sum(len(text.tokens) - text.prompt for text in texts),
        "coverage": coverage(texts, vocabulary),
        "by_offset": table,
        "own_offset": own,
        "by_place": places,
        "lengths": lengths(schedule, own, places),
        "tree": best_tree([[rate or 0.0 for rate in place["ranks"]] for place in places]),
        "chains": {f"top{top}": chain(texts, schedule, top) for top in TOPS},
    }


def _tops(ranks: Sequence[torch.Tensor]) -> dict[str, Any]:
    return {f"top{top}": share([(int((r < top).sum()), len(r)) for r in ranks]) for top in TOPS}


def _places(text: RankedText, schedule: LeapSchedule) -> list[torch.Tensor]:
    """For each place of a draft, the rank of its true token in the steps that start at the prompt's
    last position, the answer's first, and so on, as far as that token is there.

    A position that lies before the text's first row is not known; the oldest row is read instead,
    as the engine does.
    """
    first, found = text.prompt - 1, []
    for place, source in enumerate(schedule.sources(schedule.max_drafts)):
        offset = schedule.offset_of_head(source.head)
        ranks = text.ranks(source.head, offset)[max(0, first - source.lag) :]
        unknown = range(first, min(source.lag, len(text.tokens) - place - 2))
        borrowed = [text.ranks(source.head, now + place + 2)[:1] for now in unknown]
        found.append(torch.cat([*borrowed, ranks]))
    return found


def _walk(text: RankedText, schedule: LeapSchedule, top: int) -> tuple[list[int], list[int], int]:
    """How often the first p + 1 places were all right, in how many steps that can be told, and the
    number of steps."""
    right = [(ranks < top).tolist() for ranks in _places(text, schedule)]
    accepted, tried = [0] * schedule.max_drafts, [0] * schedule.max_drafts
    step = steps = 0
    while step < len(right[0]):
        steps += 1
        taken = 0
        for place, hits in enumerate(right):
            if step >= len(hits):
                break
            tried[place] += 1
            if taken == place and hits[step]:
                accepted[place] += 1
                taken += 1
        step += taken + 1
    return accepted, tried, steps
