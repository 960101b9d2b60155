"""Copy evidence: what the request's own text says that a draft goes on with.

People ask about text they paste, and answers repeat their question. So beside what the heads say, a
draft has copied tokens: find the longest run of newest tokens that stood in the text before, and go
on as the text did there. Copied token and heads are then merged place by place, as a mixture of two
opinions (choice.py): the text's counts by the weight of its match, the heads' by what is left.

The match is found once a draft and followed while the draft does what the text says; seeking anew
at every place is no better (docs/scorer.md). An earlier occurrence is named by its distance d: how
far before the newest token it ends. A text that has begun to repeat itself with period d goes on
doing so, so place p copies what stands d - p mod d back.

Pure torch, static shapes, nothing read back. Notation: R requests, W tokens of text in view,
m places, n the longest match that is told from longer ones, V the target's vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

import torch
from torch import nn

NO_TOKEN = -1
"""Where there is no token: before the text began, or where it was given as an embedding."""
_MATCHES_NOTHING = -2


class Copied(NamedTuple):
    """What the text says that a draft goes on with.

    tokens: [R, m] int64 ids of the target, `NO_TOKEN` or any id where there is nothing to copy.
    lengths: [R] int64, how many newest tokens match, 0 for none.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor


class Texts(Protocol):
    """Where the requests' own tokens are."""

    def copied(self, slots: torch.Tensor, places: int, longest: int) -> Copied:
        """What the texts of some slots go on with.

        Args:
            slots: [R] int64, as the history knows them. places: m. longest: n.
        """
        ...


def copied(newest_first: torch.Tensor, places: int, longest: int) -> Copied:
    """The continuation of the longest match of each text's end, the most recent among equals.

    Args:
        newest_first: [R, W] int32, each text from its newest token on, the one just sampled first;
            `NO_TOKEN` where there is none. places: m. longest: n, at least 1 and below 128.
    """
    count, width = newest_first.shape
    distances = max(width - 1, 1)
    text = nn.functional.pad(newest_first, (0, longest + 1), value=NO_TOKEN)
    ends = text[:, :longest].masked_fill(text[:, :longest] == NO_TOKEN, _MATCHES_NOTHING)
    unbroken = torch.ones(count, distances, dtype=torch.bool, device=text.device)
    runs = torch.zeros(count, distances, dtype=torch.int8, device=text.device)
    for back in range(longest):
        first = back + 1  # a match at distance d compares this token with the one d before it
        unbroken &= text[:, first : first + distances] == ends[:, back : back + 1]
        runs += unbroken
    lengths, nearest = runs.max(dim=1)
    return Copied(continued(newest_first, nearest + 1, places), lengths.long())


def continued(newest_first: torch.Tensor, distance: torch.Tensor, places: int) -> torch.Tensor:
    """What the texts go on with if they repeat what stands `distance` back.

    Args:
        newest_first: [R, W] int32. distance: [R] int64, 1..W. places: m.

    Returns:
        [R, m] int64.
    """
    place = torch.arange(places, device=distance.device)
    back = distance.unsqueeze(1)
    return newest_first.gather(1, back - 1 - place % back).long()


def newest_first(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Texts turned round, so that their ends stand side by side.

    Args:
        tokens: [R, W] int32, each text from its first token on. lengths: [R] integer, of each.

    Returns:
        [R, W] int32, `NO_TOKEN` behind the first token of each.
    """
    index = lengths.long().unsqueeze(1) - 1 - torch.arange(tokens.shape[1], device=tokens.device)
    turned = tokens.gather(1, index.clamp(min=0))
    return turned.masked_fill(index < 0, NO_TOKEN)


DEFAULT_LOG_ODDS = (-2.5, -1.0, -0.5, 0.0, 0.2, 0.4, 0.7, 1.0)
"""Of the weight of a match of 1, 2, ... tokens, where a checkpoint states none: low, so that heads
which know the text well lose nothing (docs/scorer.md)."""


DEFAULT_ACCURACY = (0.24, 0.46, 0.58, 0.68, 0.75, 0.8, 0.85, 0.89)
"""How often a match of 1, 2, ... tokens goes on as the text did, where a checkpoint states nothing:
as measured on Spec-Bench (docs/results/copying.md)."""


def by_length(
    values: Sequence[float], least: int, longest: int, none: float = -math.inf
) -> list[float]:
    """Values of matches of 0 to `longest` tokens: `none` below `least`, and those of matches longer
    than any that was fitted as the longest's."""
    stated = [values[min(n, len(values)) - 1] for n in range(1, longest + 1)]
    return [none] * least + stated[least - 1 :]


OUTWEIGHS = 0.5
"""From this weight on the text's token is the likeliest, whatever the heads say."""
SILENT = -1.0
"""A lead that the heads' best token has over any other."""


class Evidence(NamedTuple):
    """What the text says of one place.

    tokens: [R] int64, the token it goes on with, any id in 0..V-1 where it says nothing.
    weights: [R] float32 in 0..1, what it counts beside the heads, 0 where it says nothing.
    """

    tokens: torch.Tensor
    weights: torch.Tensor


class Origin(IntEnum):
    """Whose a drafted token is, told by what the text said of its place."""

    HEADS = 0
    """The heads': the text said nothing, or the draft had left it."""
    AGAINST_TEXT = 1
    """The heads': the text goes on with another token."""
    BOTH = 2
    """The heads' own choice, and what the text goes on with."""
    TEXT = 3
    """The text's, which decided against the heads, or whatever they are."""


def copies_alone(origins: Sequence[int]) -> tuple[int, int]:
    """What a draft of heads and text shows of one that had been left to the text.

    Args:
        origins: of its places, `Origin`.

    Returns:
        How many places the latter would have had at least, and how many of them hold the same
        tokens in both: all of the former, or all but the last.
    """
    same = 0
    for origin in origins:
        if origin < Origin.BOTH:
            return same + (origin == Origin.AGAINST_TEXT), same
        same += 1
    return same, same


class Copying(nn.Module):
    """How the text's opinion is weighed.

    Args:
        texts: of all slots.
        log_odds: of the weight of a match of 0, 1, 2, ... tokens, as `by_length` gives them; its
            last entry also counts for longer ones.
        accuracy: how often such a match is right, for drafts that no head is asked about.
        vocab_size: V; what is copied must be a token that the target could sample.
        never: tokens that stand for something else, such as a part of a picture.
        sources: [at least R, m] uint8, where the `Origin` of each place is noted.
    """

    weights: torch.Tensor
    accuracy: torch.Tensor

    def __init__(
        self,
        texts: Texts,
        log_odds: Sequence[float],
        accuracy: Sequence[float],
        vocab_size: int,
        sources: torch.Tensor,
        never: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.texts, self.vocab_size = texts, vocab_size
        self.never = tuple(never)
        self.sources = sources
        self.longest = len(log_odds) - 1
        weights = torch.tensor(log_odds, dtype=torch.float32).sigmoid()
        self.register_buffer("weights", weights.to(sources.device), persistent=False)
        chances = torch.tensor(accuracy, dtype=torch.float32, device=sources.device)
        self.register_buffer("accuracy", chances, persistent=False)

    def begin(self, slots: torch.Tensor, places: int) -> DraftedCopy:
        """What the texts say of the drafts that now begin.

        Args:
            slots: [R] int64. places: m, how many tokens are drafted at most.
        """
        return DraftedCopy(self, self.texts.copied(slots, places, self.longest))


class DraftedCopy:
    """The text's opinion of one draft while it is filled.

    Args:
        rows: [R] int64, those of the batch that these are; None for its first R.
    """

    def __init__(self, copying: Copying, found: Copied, rows: torch.Tensor | None = None) -> None:
        self.copying, self.found, self.rows = copying, found, rows
        in_vocabulary = (found.tokens >= 0) & (found.tokens < copying.vocab_size)
        for token in copying.never:
            in_vocabulary = in_vocabulary & (found.tokens != token)
        self.tokens = found.tokens.clamp(0, copying.vocab_size - 1)
        self.follows = found.lengths > 0
        # A match grows by every token that follows it.
        place = torch.arange(found.tokens.shape[1], device=found.tokens.device)
        self.grown = (found.lengths.unsqueeze(1) + place).clamp_(max=copying.longest)
        # Beyond a place that cannot be copied nothing is.
        can_copy = in_vocabulary.long().cumprod(dim=1) * self.follows.unsqueeze(1)
        self.weights = copying.weights[self.grown] * can_copy
        self.leads = (self.weights / (1 - self.weights)).masked_fill(self.weights == 0, SILENT)

    def at(self, place: int) -> Evidence:
        """What the text says of a place: nothing where the draft has left it."""
        return Evidence(self.tokens[:, place], self.weights[:, place] * self.follows)

    def lead(self, place: int) -> torch.Tensor:
        """By how much the heads' best token of a place must be likelier, by the heads, than the
        text's, so that heads and text together hold it for the likelier one.

        Returns:
            [R] float32, w / (1 - w) for the weight w of the text; `SILENT` where this says nothing.
        """
        return torch.where(self.follows, self.leads[:, place], SILENT)

    def go_on(self, place: int, drafted: torch.Tensor) -> None:
        """Take note of the tokens [R] int64 of a place."""
        self.follows = self.follows & (drafted == self.tokens[:, place])

    def note(
        self, places: slice, speaks: torch.Tensor, same: torch.Tensor, decides: torch.Tensor
    ) -> None:
        """Note whose the tokens of places are.

        Args:
            speaks: [R, p] bool, whether the text says anything. same: whether they are the text's.
                decides: whether the text decides such a place, against the heads' best tokens or
                whatever they are.
        """
        copied = speaks & same
        origin = speaks.byte() + copied + (copied & decides)
        self.copying.sources[self._own_rows(), places] = origin

    def alone(self) -> torch.Tensor:
        """Draft what the text says at every place.

        Returns:
            [R, m] float32, how likely each is to be right whatever heads say, 0 where it is silent.
        """
        says = self.weights > 0
        self.copying.sources[self._own_rows(), : says.shape[1]] = Origin.TEXT * says.byte()
        return self.copying.accuracy[self.grown] * says

    def of(self, rows: torch.Tensor) -> DraftedCopy:
        """As new, of some of these drafts: [r] int64."""
        found = Copied(self.found.tokens[rows], self.found.lengths[rows])
        return DraftedCopy(self.copying, found, rows)

    def says_anything(self) -> bool:
        """Whether any text says anything of its draft. Reads the device."""
        return bool(self.follows.any())

    def undecided(self) -> torch.Tensor:
        """[r] int64, the drafts that heads could change: those whose text does not outweigh them at
        every place. Reads the device."""
        return (self.weights.amin(dim=1) < OUTWEIGHS).nonzero().squeeze(1)

    def _own_rows(self) -> slice | torch.Tensor:
        return slice(len(self.tokens)) if self.rows is None else self.rows
