"""What Model Runner V2's adaptive verification is given, and what it does with it.

An engine with it needs CUDA graphs and so a GPU; here the speculator drafts for a batch of its own,
and vLLM's own ranking shares out a budget by the confidence that it left.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.method.history import History
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.worker.drafter import Drafter

PLACES, HIDDEN, VOCAB = 4, 5, 11


class Votes:
    """Heads whose logits on a row are the row times a matrix of their own."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.matrices = torch.randn(2, VOCAB, HIDDEN, generator=generator)

    def logits(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        return rows @ self.matrices[head].T

    def top_with_log_probability(
        self, rows: torch.Tensor, num_heads: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = [
            self.best_with_log_probability(self.logits(rows, head)) for head in range(num_heads)
        ]
        ids, likely = zip(*found, strict=True)
        return torch.stack(ids, dim=-1), torch.stack(likely, dim=-1)

    def best_with_log_probability(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best = scores.log_softmax(-1).max(-1)
        return best.indices, best.values


def propose(least: float, lines: list[tuple[float, float]], **options: object) -> torch.Tensor:
    """The confidence [3, PLACES] that the speculator leaves for three requests of four rows."""
    from vllm_lmtp.runner_v2.speculator import LMTPSpeculator

    heads = Votes()
    history = History(3, 2, HIDDEN, torch.float32, "cpu")
    decoder = BackwardDecoder(LeapSchedule(2, 2), heads, history)  # type: ignore[arg-type]
    speculator = object.__new__(LMTPSpeculator)
    speculator.decoder = decoder
    confidence = Confidence(lines, PLACES)
    speculator.drafter = Drafter(decoder, heads, confidence, 1.0)  # type: ignore[arg-type]
    speculator.num_speculative_steps = PLACES
    speculator.draft_logits = None
    speculator.draft_tokens = torch.zeros(5, PLACES, dtype=torch.int64)
    speculator.draft_token_confidence_probs = torch.full((5, PLACES), 9.0)
    speculator.choose = speculator._chooser()
    speculator.speculative_config = SimpleNamespace(lmtp_min_confidence=least)
    batch = SimpleNamespace(
        num_reqs=3,
        query_start_loc=torch.tensor([0, 4, 8, 12], dtype=torch.int32),
        idx_mapping=torch.tensor([2, 0, 1], dtype=torch.int32),
        positions=torch.arange(4).repeat(3),
    )
    speculator.propose(
        batch,  # type: ignore[arg-type]
        None,
        None,
        rows(),
        None,
        torch.ones(3),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, 1, dtype=torch.int64),
        torch.zeros(1, 3),
        torch.zeros(3),
        torch.zeros(3, dtype=torch.int64),
        **options,  # type: ignore[arg-type]
    )
    assert (speculator.draft_token_confidence_probs[3:] == 9).all()
    return speculator.draft_token_confidence_probs[:3]


def rows() -> torch.Tensor:
    return torch.randn(12, HIDDEN, generator=torch.Generator().manual_seed(4))


def expected(lines: list[tuple[float, float]]) -> torch.Tensor:
    """[3, PLACES]: place p is head p // 2 on the row at lag 1 - p % 2."""
    states, matrices = rows().view(3, 4, HIDDEN), Votes().matrices
    found = torch.zeros(3, PLACES)
    for place, (slope, intercept) in enumerate(lines):
        shares = (states[:, 2 + place % 2] @ matrices[place // 2].T).softmax(-1).amax(-1)
        found[:, place] = torch.sigmoid(slope * torch.log(shares / (1 - shares)) + intercept)
    return found


LINES = [(1.0, 0.0), (0.5, 0.3), (2.0, -1.0), (0.7, 0.7)]


@pytest.mark.parametrize("wanted", [None, 4, 3, 1])
def test_the_confidence_of_every_place_is_left_for_the_runner(wanted: int | None) -> None:
    found = propose(0.0, LINES, num_speculative_tokens=wanted)
    count = PLACES if wanted is None else wanted
    assert torch.allclose(found[:, :count], expected(LINES)[:, :count], atol=1e-5)
    assert (found[:, count:] == 9).all()


def test_places_below_the_cut_are_never_worth_verifying() -> None:
    whole = expected(LINES)
    survival = whole.cumprod(dim=1)
    least = float(survival.flatten().sort().values[5:7].mean())
    found = propose(least, LINES)
    kept = survival >= least
    assert 0 < int(kept.sum()) < kept.numel()
    assert torch.allclose(found, whole * kept, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 3, 6, 11])
def test_vllm_verifies_the_likeliest_places(budget: int) -> None:
    from vllm.v1.worker.gpu.spec_decode.adaptive_verification import _assign_draft_token_budget

    found = propose(0.0, LINES)
    by_slot = torch.empty(3, PLACES)
    by_slot[torch.tensor([2, 0, 1])] = found
    admitted = torch.full((3,), PLACES, dtype=torch.int32)
    _assign_draft_token_budget(by_slot, torch.tensor([2, 0, 1]), admitted, budget, PLACES)
    limit = found.cumprod(dim=1).flatten().sort(descending=True).values[budget - 1]
    assert admitted.tolist() == (found.cumprod(dim=1) >= limit).sum(dim=1).tolist()
