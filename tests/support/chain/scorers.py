"""Scorers for the exact chain, with the votes they add, all exact in float32.

Some votes are strong enough to overrule a head and some are not, and some preceding tokens have
none, so a draft depends on heads and scorer alike.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support.chain.target import VOCAB, VOTE, Chain, embeddings, rows_that_vote

RANK = 64


@dataclass(frozen=True)
class Scoring:
    """A scorer as a folder holds it, and what it does.

    votes: [n or 1, V, D], what a preceding token adds to each token of the vocabulary, by head;
        None where another oracle knows.
    """

    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    votes: torch.Tensor | None = None
    vocabulary: tuple[int, ...] = ()

    def add_to(self, folder: Path) -> Path:
        """Put the scorer into a folder of heads, as a weight file of its own."""
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"scorer": self.config}))
        save_file(self.tensors, str(folder / "scorer.safetensors"), metadata={"format": "pt"})
        return folder


@dataclass(frozen=True)
class ScoredChain(Chain):
    """A chain whose heads are served with a scorer."""

    scoring: Scoring | None = None

    def drafted(self, head: int, row_token: int, previous: int) -> int:
        """The best of the head's votes and the scorer's together."""
        assert self.scoring is not None
        return self.scoring.vocabulary[int(self._votes(head, row_token, previous).argmax())]

    def opinion(self, place: int, row_token: int, previous: int) -> dict[int, float]:
        """The softmax of all votes."""
        assert self.scoring is not None
        shares = self._votes(place // self.stride, row_token, previous).double().softmax(dim=-1)
        return dict(zip(self.scoring.vocabulary, shares.tolist(), strict=True))

    def stated(self, place: int, share: float) -> float:
        """On the line of the place."""
        assert self.scoring is not None
        if not share:
            return 0.0
        line = {"slope": 1.0, "intercept": 0.0}
        if "confidence" in self.scoring.config:
            line = self.scoring.config["confidence"]["places"][place]
        odds = line["slope"] * math.log(share / (1 - share)) + line["intercept"]
        return 1 / (1 + math.exp(-odds))

    def _votes(self, head: int, row_token: int, previous: int) -> torch.Tensor:
        """[D], of head and scorer together."""
        assert self.scoring is not None
        vocabulary, votes = self.scoring.vocabulary, self.scoring.votes
        assert votes is not None
        matrix = rows_that_vote(embeddings() * VOTE, self.heads[head])[list(vocabulary)]
        return embeddings()[row_token] @ matrix.T + votes[min(head, len(votes) - 1), previous]


def scored(chain: Chain, scoring: Scoring) -> ScoredChain:
    """`chain` served with `scoring`."""
    return ScoredChain(chain.stride, chain.successor, chain.heads, scoring)


def calibrated(scoring: Scoring, lines: Sequence[tuple[float, float]]) -> Scoring:
    """`scoring` with a (slope, intercept) for the confidence of each place."""
    places = [{"slope": slope, "intercept": intercept} for slope, intercept in lines]
    return replace(scoring, config=scoring.config | {"confidence": {"places": places}})


def markov(
    chain: Chain,
    vocabulary: Sequence[int] = range(VOCAB),
    *,
    per_head: bool = False,
    int8: bool = False,
) -> Scoring:
    """A term that votes for the true successor of three quarters of the tokens, for half of those
    with 24 and else with 6."""
    size, index = len(vocabulary), {token: j for j, token in enumerate(vocabulary)}
    generator = torch.Generator().manual_seed(3)
    signs = torch.randint(0, 2, (size + 1, RANK), generator=generator) * 2.0 - 1.0
    strength = torch.where(torch.arange(size + 1) % 2 == 0, 2.0, 0.5)
    outputs = []
    for head in range(len(chain.heads) if per_head else 1):
        rng = random.Random(head)
        output = torch.randint(0, 2, (size, RANK), generator=generator) * 2.0 - 1.0
        for token, j in index.items():
            if (x := index.get(chain.successor[token])) is not None and rng.random() < 0.75:
                output[x] = signs[j]
        outputs.append(output)
    whole = torch.stack(outputs)
    stored = whole if per_head else whole[0]
    if int8:
        tensors = {
            "scorer.markov.embed": signs.to(torch.int8),
            "scorer.markov.embed_scale": strength,
            "scorer.markov.output": (stored * 3).to(torch.int8),
            "scorer.markov.output_scale": torch.full(stored.shape[:-1], 1 / 16),
        }
    else:
        tensors = {
            "scorer.markov.embed": signs * strength[:, None],
            "scorer.markov.output": stored * 3 / 16,
        }
    by_row = (signs * strength[:, None]) @ (whole * 3 / 16).transpose(1, 2)
    rows = [index.get(token, size) for token in range(VOCAB)]
    config = {"kind": "markov", "rank": RANK}
    return Scoring(config, tensors, by_row[:, rows], tuple(vocabulary))


def table(
    chain: Chain, vocabulary: Sequence[int] = range(VOCAB), *, by_target: bool = True
) -> Scoring:
    """A table of up to three successors, among them mostly the true one.

    by_target: a row for every token of the target; else for those of the vocabulary and one more.
    """
    rng, index = random.Random(4), {token: j for j, token in enumerate(vocabulary)}
    tokens = list(range(VOCAB)) if by_target else [*vocabulary, -1]
    ids = torch.full((len(tokens), 3), -1, dtype=torch.int32)
    ratios = torch.zeros(len(tokens), 3, dtype=torch.float16)
    for row, token in enumerate(tokens):
        found = rng.sample(range(len(vocabulary)), 2)
        true = index.get(chain.successor[token]) if token >= 0 else None
        if true is not None and true not in found and rng.random() < 0.75:
            found.insert(rng.randrange(3), true)
        ids[row, : len(found)] = torch.tensor(found)
        for place, x in enumerate(found):
            ratios[row, place] = rng.choice([6, 24]) if x == true else rng.choice([-2, 1, 3])
    weight = 1.5
    by_row = torch.zeros(len(tokens), len(vocabulary))
    for row in range(len(tokens)):
        for x, ratio in zip(ids[row].tolist(), ratios[row].tolist(), strict=True):
            if x >= 0:
                by_row[row, x] += weight * ratio
    rows = (
        list(range(VOCAB)) if by_target else [index.get(t, len(vocabulary)) for t in range(VOCAB)]
    )
    tensors = {"scorer.table.ids": ids, "scorer.table.ratios": ratios}
    config = {"kind": "table", "weight": weight, "pseudo_counts": 5}
    return Scoring(config, tensors, by_row[rows][None], tuple(vocabulary))
