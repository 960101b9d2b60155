"""A brute-force search for what a text copies from itself, and the mixture with a head's opinion:
the oracle of everything that copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_lmtp.method.copying import Origin

NO_TOKEN = -1


def longest_match(text: Sequence[int], longest: int) -> tuple[int, int]:
    """Where the longest, and then the most recent, earlier occurrence of the text's end ends.

    Args:
        text: token ids, `NO_TOKEN` where there is none. longest: length beyond which matches are
            equally long.

    Returns:
        (how far before the text's last token it ends, length of the match), (0, 0) for none.
    """
    best = (0, 0)
    for distance in range(1, len(text)):
        length = 0
        while (
            length < min(longest, len(text) - distance)
            and text[-1 - length] == text[-1 - length - distance]
            and text[-1 - length] != NO_TOKEN
        ):
            length += 1
        if length > best[1]:
            best = (distance, length)
    return best


def continuation(text: Sequence[int], distance: int, places: int) -> list[int]:
    """What the text goes on with if it does what it did `distance` tokens ago."""
    grown = list(text)
    for _ in range(places):
        grown.append(grown[-distance])
    return grown[len(text) :]


@dataclass
class CopiedDraft:
    """One draft of a text, place after place.

    log_odds: of a match of 1, 2, ... tokens; longer ones count as the last. vocab_size: tokens
    beyond are not copied.
    """

    text: Sequence[int]
    places: int
    log_odds: Sequence[float]
    vocab_size: int
    origins: list[Origin] = field(default_factory=list)
    """Of each place filled so far."""

    def __post_init__(self) -> None:
        distance, self.length = longest_match(self.text, len(self.log_odds))
        self.follows = self.length > 0
        self.copied = continuation(self.text, distance, self.places) if self.follows else []

    def weight(self, place: int) -> float:
        """What the text counts at a place, 0 where the draft has left it."""
        if not self.follows or not 0 <= self.copied[place] < self.vocab_size:
            return 0.0
        odds = self.log_odds[min(self.length + place, len(self.log_odds)) - 1]
        return 1 / (1 + math.exp(-odds))

    def accuracy(self, place: int, shares: Sequence[float]) -> float:
        """How often a copy is right there, of those of matches of 1, 2, ... tokens."""
        return shares[min(self.length + place, len(shares)) - 1]

    def decides_all(self) -> bool:
        """Whether the text outweighs the heads at every place, so that they need not be asked."""
        return all(self.weight(place) >= 0.5 for place in range(self.places))

    def leave_to_heads(self, place: int, token: int) -> None:
        """Go on with what the heads draft where the text counts nothing."""
        self.origins.append(Origin.HEADS)
        self.follows = self.follows and token == self.copied[place]

    def fill(self, place: int, opinion: dict[int, float]) -> tuple[int, float, bool]:
        """The likeliest token of a place.

        Args:
            opinion: the heads' probabilities; all that are as large as any other's must be there.

        Returns:
            (token, its probability by the heads alone, whether the text goes on with it).
        """
        weight = self.weight(place)
        best = max(opinion, key=lambda token: opinion[token])
        token, copied = best, self.copied[place] if weight else NO_TOKEN
        if weight:
            of_copied = weight + (1 - weight) * opinion.get(copied, 0.0)
            if of_copied >= (1 - weight) * opinion[best]:
                token = copied
        if not weight:
            self.origins.append(Origin.HEADS)
        elif token != copied:
            self.origins.append(Origin.AGAINST_TEXT)
        else:
            by_text = token != best or weight >= 0.5
            self.origins.append(Origin.TEXT if by_text else Origin.BOTH)
        self.follows = self.follows and token == self.copied[place]
        return token, opinion.get(token, 0.0), token == copied
