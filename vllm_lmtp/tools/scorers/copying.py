"""What copies count beside a folder's heads, by length of match: fitted on answers, walked through
as by an engine.

The weight of a length is the likeliest one under the mixture of text and heads (choice.py), found
by expectation and maximisation over the places that such drafts come to: weights decide which
places these are, so both are found in turn. Few observations are held to the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vllm_lmtp.method.copying import DEFAULT_ACCURACY, DEFAULT_LOG_ODDS, by_length
from vllm_lmtp.training.judging.observed_copies import Copies

LONGEST = len(DEFAULT_LOG_ODDS)
PRIOR = 20.0
"""How many observations the default counts."""
ROUNDS, STEPS = 5, 100
MOST_ODDS = 6.0


@dataclass(frozen=True)
class Walk:
    """What an engine does with an answer's drafts. visited: [N] bool, positions at which it drafts.
    tried: [N, m] bool, places of those that come to be judged while the draft still follows the
    text. accepted: [N] int64, tokens of each draft that are right."""

    visited: Tensor
    tried: Tensor
    accepted: Tensor


def walk(copies: Copies, log_odds: Sequence[float]) -> Walk:
    """Walk through an answer whose drafts weigh copies so; none for the heads alone.

    Args:
        log_odds: of matches of 1, 2, ... tokens.
    """
    places = copies.copy_right.shape[1]
    follows = (copies.lengths > 0).unsqueeze(1) & _so_far(copies.copy_right)
    if log_odds:
        weights = torch.tensor(by_length(log_odds, 1, LONGEST)).sigmoid()
        grown = (copies.lengths.unsqueeze(1) + torch.arange(places)).clamp(max=LONGEST)
        weight = weights[grown] * follows
        alone = torch.log1p(-weight)
        copy = torch.logaddexp(alone + copies.of_copied, weight.log())
        takes = (weight > 0) & (copy >= alone + copies.of_best)
        right = torch.where(takes, copies.copy_right, copies.best_right)
    else:
        right = copies.best_right
    there = torch.arange(places) < copies.known.unsqueeze(1)
    right = right & there
    accepted = right.long().cumprod(dim=1).sum(dim=1)
    visited = torch.zeros(len(accepted), dtype=torch.bool)
    place = 0
    while place < len(accepted):
        visited[place] = True
        place += 1 + int(accepted[place])
    tried = visited.unsqueeze(1) & there & _so_far(right) & follows
    return Walk(visited, tried, accepted)


def tokens_a_step(answers: Sequence[Copies], log_odds: Sequence[float]) -> float:
    """Of all answers together, drafts weighing copies so; without any, the heads alone."""
    walks = [walk(copies, log_odds) for copies in answers]
    steps = sum(int(w.visited.sum()) for w in walks)
    return 1 + sum(int(w.accepted[w.visited].sum()) for w in walks) / max(steps, 1)


def fit(answers: Sequence[Copies]) -> tuple[float, ...]:
    """Log-odds of the weight of a match of 1, 2, ... tokens."""
    prior = torch.tensor(DEFAULT_LOG_ODDS, dtype=torch.float64).sigmoid()
    log_odds: tuple[float, ...] = DEFAULT_LOG_ODDS
    for _ in range(ROUNDS):
        lengths, shares, right = _observed(answers, log_odds)
        weights = prior.clone()
        for length in range(1, LONGEST + 1):
            here = lengths == length
            weights[length - 1] = _likeliest(
                float(prior[length - 1]), shares[here], right[here].double()
            )
        log_odds = tuple(
            round(odds, 3) for odds in weights.logit().clamp(-MOST_ODDS, MOST_ODDS).tolist()
        )
    return log_odds


def accuracy(answers: Sequence[Copies], log_odds: Sequence[float]) -> tuple[float, ...]:
    """How often a match of 1, 2, ... tokens is right where drafts weigh copies so."""
    lengths, _, right = _observed(answers, log_odds)
    shares = []
    for length, guess in enumerate(DEFAULT_ACCURACY, 1):
        here = right[lengths == length]
        shares.append((float(here.sum()) + PRIOR * guess) / (len(here) + PRIOR))
    return tuple(round(share, 3) for share in shares)


def _observed(
    answers: Sequence[Copies], log_odds: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Length of the match, the heads' probability of the text's token, and whether that came, of
    every place that is tried."""
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for copies in answers:
        tried = walk(copies, log_odds).tried
        grown = copies.lengths.unsqueeze(1) + torch.arange(tried.shape[1])
        columns.append(
            (
                grown.clamp(max=LONGEST)[tried],
                copies.of_copied.double().exp()[tried],
                copies.copy_right[tried],
            )
        )
    lengths, shares, right = (torch.cat(column) for column in zip(*columns, strict=True))
    return lengths, shares, right


def _likeliest(prior: float, shares: Tensor, right: Tensor) -> float:
    """The weight under which what came is likeliest, `PRIOR` observations being like the prior."""
    weight = prior
    for _ in range(STEPS):
        of_text = right * weight / ((1 - weight) * shares + weight)
        weight = (float(of_text.sum()) + PRIOR * prior) / (len(right) + PRIOR)
    return weight


def _so_far(right: Tensor) -> Tensor:
    """[N, m] bool, whether all places before each were right."""
    before = right[:, :-1].long().cumprod(dim=1).bool()
    return torch.cat([torch.ones_like(right[:, :1]), before], dim=1)


def fitted_or_default(
    learnt: Sequence[Copies], measured: Sequence[Copies]
) -> tuple[tuple[float, ...], list[float]]:
    """Log-odds fitted to some answers, or the default ones where these do better on others: few
    answers fit themselves alone.

    Returns:
        The log-odds, and tokens a step of the other answers without copies, by default, and so.
    """
    log_odds = fit(learnt)
    lengths = [tokens_a_step(measured, odds) for odds in ((), DEFAULT_LOG_ODDS, log_odds)]
    if lengths[2] < lengths[1]:
        return DEFAULT_LOG_ODDS, [*lengths[:2], lengths[1]]
    return log_odds, lengths
