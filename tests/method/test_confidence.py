"""Confidence against the definition, choosers against plain torch."""

from __future__ import annotations

import math

import pytest
import torch

from vllm_lmtp.method.best import Best
from vllm_lmtp.method.choice import Meter
from vllm_lmtp.method.confidence import Confidence, log_odds, most_worth, worth_verifying
from vllm_lmtp.method.drawn import Drawn
from vllm_lmtp.runner_v1.drawing import Drawing


@pytest.mark.parametrize("p", [1e-12, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_log_odds(p: float) -> None:
    found = float(log_odds(torch.tensor(math.log(p), dtype=torch.float64)))
    assert found == pytest.approx(math.log(p / (1 - p)), rel=1e-9)


@pytest.mark.parametrize("log_probability", [0.0, -1e-30, -1e30, float("-inf"), 1e-7])
def test_log_odds_are_finite(log_probability: float) -> None:
    odds = log_odds(torch.tensor([log_probability]))
    assert odds.isfinite().all()
    assert (odds > 0) == (log_probability > -1)


def test_every_place_has_its_line() -> None:
    confidence = Confidence([(1.0, 0.0), (0.5, -1.0)], places=2)
    p = torch.tensor([0.2, 0.8])
    assert torch.allclose(confidence.at(slice(1), p.log().unsqueeze(1))[:, 0], p)
    odds = 0.5 * torch.log(p / (1 - p)) - 1
    assert torch.allclose(confidence.at(slice(1, 2), p.log().unsqueeze(1))[:, 0], odds.sigmoid())
    both = confidence.at(slice(2), p.log().unsqueeze(1).expand(-1, 2))
    assert torch.allclose(both, torch.stack([p, odds.sigmoid()], dim=1))


def test_without_lines_the_heads_are_taken_at_their_word() -> None:
    p = torch.tensor([0.03, 0.6, 0.99])
    confidence = Confidence([], places=3)
    found = confidence.at(slice(3), p.log().unsqueeze(1).expand(-1, 3))
    assert torch.allclose(found, p.unsqueeze(1).expand(-1, 3), atol=1e-6)


@pytest.mark.parametrize(
    ("least", "lengths"),
    [(0.0, [3, 3]), (0.25, [3, 1]), (0.4, [2, 1]), (0.7, [1, 0]), (1.0, [0, 0])],
)
def test_a_draft_ends_where_its_product_falls_below(least: float, lengths: list[int]) -> None:
    confidence = torch.tensor([[0.8, 0.6, 0.6], [0.5, 0.1, 1.0]])
    assert worth_verifying(confidence, least).sum(dim=1).tolist() == lengths


class OneRank:
    """Heads whose vocabulary is the target's, on one rank."""

    def best_with_log_probability(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best = scores.log_softmax(-1).max(-1)
        return best.indices, best.values

    def over_target_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        return scores


def scores() -> torch.Tensor:
    return torch.randn(4, 9, generator=torch.Generator().manual_seed(2))


def test_both_choosers_note_how_likely_the_best_token_is() -> None:
    """Drawn tokens must not decide whether they are verified, or the output would drift."""
    found = [scores(), 2 * scores(), -scores()]
    meters = [Meter(Confidence([], 4), torch.zeros(6, 4)) for _ in range(2)]
    best = Best(OneRank(), meters[0]).begin(None)
    drawn = Drawn(OneRank(), lambda whole, place: whole.argmin(-1), 0.5, meters[1]).begin(None)
    for place, place_scores in enumerate(found):
        assert best(place_scores, place).tolist() == place_scores.argmax(-1).tolist()
        assert drawn(place_scores, place).tolist() == place_scores.argmin(-1).tolist()
        if place != 1:  # as between heads: what is noted at once is what came since
            best.settle()
            drawn.settle()
    shares = torch.stack([s.softmax(-1).amax(-1) for s in found], dim=1)
    for meter in meters:
        assert torch.allclose(meter.into[:4, :3], shares, atol=1e-6)
        assert not meter.into[:, 3].any()
        assert not meter.into[4:].any()


def test_drawing_keeps_what_it_drew_from() -> None:
    temperature = torch.tensor([0.0, 0.5, 1.0, 2.0])
    drawing = Drawing(temperature, {})
    for place in range(2):
        tokens = drawing(scores() * (place + 1), place)
        assert tokens[0] == scores()[0].argmax()
    kept = drawing.probabilities()
    assert kept is not None
    assert kept.shape == (4, 2, 9)
    for place in range(2):
        for row in range(1, 4):
            wanted = (scores()[row] * (place + 1) / temperature[row]).softmax(-1)
            assert torch.allclose(kept[row, place], wanted)


def test_a_draft_temperature_is_a_share_of_the_requests() -> None:
    """What the rejection sampler is given is what the token was drawn from."""
    drawing = Drawing(torch.tensor([0.0, 0.5, 1.0, 2.0]), {})
    best = Drawn(OneRank(), drawing, 0.6).begin(None)(scores(), 0)[0]
    assert best == scores()[0].argmax()
    kept = drawing.probabilities()
    assert kept is not None
    for row, temperature in ((1, 0.3), (2, 0.6), (3, 1.2)):
        assert torch.allclose(kept[row, 0], (scores()[row] / temperature).softmax(-1))


def test_draws_follow_the_distribution() -> None:
    torch.manual_seed(1)
    one = scores()[:1].expand(50_000, -1)
    drawn = Drawing(torch.full((len(one),), 0.7), {})(one, 0)
    share = torch.bincount(drawn, minlength=9) / len(one)
    assert torch.allclose(share, (one[0] / 0.7).softmax(-1), atol=0.01)


def test_a_seeded_row_draws_alike_wherever_it_stands() -> None:
    found = scores()
    draws = []
    for row in (0, 3):
        torch.manual_seed(row)  # what the others draw from
        generator = torch.Generator().manual_seed(9)
        drawing = Drawing(torch.ones(4), {row: generator})
        same = found[:1].expand(4, -1)
        draws.append([int(drawing(same, place)[row]) for place in range(20)])
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 1


def test_no_place_no_distribution() -> None:
    assert Drawing(torch.ones(2), {}).probabilities() is None


@pytest.mark.parametrize("seed", range(20))
def test_as_many_places_as_leave_most_after_their_cost(seed: int) -> None:
    """Against every number of places in turn; costs fall and rise."""
    drawn = torch.Generator().manual_seed(seed)
    sure = torch.rand(6, generator=drawn).tolist()
    costs = (torch.rand(7, generator=drawn) - 0.3).tolist()
    left = []
    for rows in range(7):
        chances = [math.prod(sure[: place + 1]) for place in range(rows)]
        left.append(sum(chances) - costs[rows])
    assert most_worth(sure, costs, 0.0) == left.index(max(left))


def test_places_that_nobody_filled_are_not_verified() -> None:
    free = [0.0, -1.0, -2.0, -3.0]
    assert most_worth([0.5, 0.0, 0.0], free, 1e-6) == 1
    assert most_worth([0.0, 0.9, 0.9], free, 1e-6) == 0
