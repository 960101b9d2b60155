"""Scorers, and drafts filled from left to right, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.history import History
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.method.scorer import (
    MarkovScorer,
    RecurrentScorer,
    Scorer,
    SuccessorTable,
    local_successors,
    rows_of_tokens,
)

VOCAB, RANK = 11, 3
DRAFTED = torch.tensor([1, 2, 4, 5, 8, 10])
SHARDS = ((0, 4, 4), (4, 6, 4))  # start, end, rows with padding


def whole_numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Exact in float32 in whatever order they are summed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, shape, generator=generator).float()


def said(scorer: Scorer, logits: torch.Tensor, head: int, previous: torch.Tensor) -> torch.Tensor:
    """The scores of a first place."""
    known = scorer.read(scorer.begin(torch.ones(len(previous), 5)), previous)
    return scorer.add(logits, head, known)


def test_rows_of_tokens() -> None:
    assert rows_of_tokens(4, None).tolist() == [0, 1, 2, 3]
    assert rows_of_tokens(VOCAB, DRAFTED).tolist() == [6, 0, 1, 6, 2, 3, 6, 6, 4, 6, 5]


@pytest.mark.parametrize("per_head", [False, True])
def test_markov_term_is_that_of_the_preceding_token(per_head: bool) -> None:
    embed = whole_numbers(len(DRAFTED) + 1, RANK)
    output = whole_numbers(2, len(DRAFTED), RANK, seed=1)
    scorer = MarkovScorer(embed, output if per_head else output[0], rows_of_tokens(VOCAB, DRAFTED))
    previous = torch.arange(VOCAB)
    logits = whole_numbers(VOCAB, len(DRAFTED), seed=2)
    for head in (0, 1):
        scores = said(scorer, logits.clone(), head, previous)
        for token in range(VOCAB):
            row = DRAFTED.tolist().index(token) if token in DRAFTED else len(DRAFTED)
            for x in range(len(DRAFTED)):
                term = float(embed[row] @ output[head if per_head else 0, x])
                assert scores[token, x] == logits[token, x] + term


def make_table() -> tuple[torch.Tensor, torch.Tensor]:
    """Three successors a token, one of them padding in every other row."""
    ids = torch.stack([torch.randperm(6, generator=_seeded(i))[:3] for i in range(VOCAB)]).int()
    ids[::2, 2] = -1
    return ids, whole_numbers(VOCAB, 3, seed=3).half()


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_table_adds_to_the_successors_alone() -> None:
    ids, ratios = make_table()
    scorer = SuccessorTable(*local_successors(ids, ratios, 0, 6), torch.arange(VOCAB), 0.5)
    logits = whole_numbers(VOCAB, 6, seed=4)
    scores = said(scorer, logits.clone(), 0, torch.arange(VOCAB))
    for token in range(VOCAB):
        listed = dict(zip(ids[token].tolist(), ratios[token].tolist(), strict=True))
        for x in range(6):
            assert scores[token, x] == logits[token, x] + 0.5 * listed.get(x, 0)


def test_shards_add_up_to_the_whole_table() -> None:
    ids, ratios = make_table()
    rows, previous = torch.arange(VOCAB), torch.arange(VOCAB)
    whole = SuccessorTable(*local_successors(ids, ratios, 0, 6), rows, 2.0)
    wanted = said(whole, torch.zeros(VOCAB, 6), 0, previous)
    parts = []
    for start, end, padded in SHARDS:
        part = SuccessorTable(*local_successors(ids, ratios, start, end), rows, 2.0)
        scores = said(part, torch.zeros(VOCAB, padded), 0, previous)
        assert not scores[:, end - start :].any()
        parts.append(scores[:, : end - start])
    assert torch.equal(torch.cat(parts, dim=1), wanted)


@pytest.mark.parametrize("token", [-1, VOCAB, 2**40])
def test_ids_outside_the_vocabulary_do_no_harm(token: int) -> None:
    """Rows in the middle of a prompt, and padding, bring any id."""
    ids, ratios = make_table()
    table = SuccessorTable(*local_successors(ids, ratios, 0, 6), torch.arange(VOCAB), 1.0)
    term = MarkovScorer(
        whole_numbers(7, RANK), whole_numbers(6, RANK), rows_of_tokens(VOCAB, DRAFTED)
    )
    recurrent = make_recurrent()
    for scorer in (table, term, recurrent):
        assert said(scorer, torch.zeros(1, 6), 0, torch.tensor([token])).isfinite().all()


def make_recurrent(per_head: bool = False) -> RecurrentScorer:
    """Over DRAFTED, hidden states of 5."""
    output = whole_numbers(2, len(DRAFTED), RANK, seed=1)
    return RecurrentScorer(
        whole_numbers(RANK, 5, seed=6) / 16,
        whole_numbers(RANK, 2 * RANK, seed=7) / 16,
        whole_numbers(len(DRAFTED) + 1, RANK) / 8,
        output if per_head else output[0],
        rows_of_tokens(VOCAB, DRAFTED),
    )


@pytest.mark.parametrize("per_head", [False, True])
def test_recurrent_term_remembers_every_token_and_the_state_it_began_with(per_head: bool) -> None:
    scorer, newest = make_recurrent(per_head), whole_numbers(2, 5, seed=8)
    start, carry, embed, output = (
        value.double().tolist()
        for value in (scorer.start, scorer.carry, scorer.embed, scorer.output)
    )
    rows = rows_of_tokens(VOCAB, DRAFTED).tolist()
    read = torch.tensor([[3, 2, 5, 5], [8, 8, 0, 10]])
    known = scorer.begin(newest)
    states = [
        [sum(a * b for a, b in zip(row, h, strict=True)) for row in start] for h in newest.tolist()
    ]
    for place, tokens in enumerate(read.T):
        known = scorer.read(known, tokens)
        head = place % 2
        scores = scorer.add(torch.zeros(2, len(DRAFTED)), head, known)
        for request, token in enumerate(tokens.tolist()):
            e = embed[rows[token]]
            both = [*states[request], *e]
            sums = [sum(a * b for a, b in zip(row, both, strict=True)) for row in carry]
            states[request] = [x + s / (1 + math.exp(-s)) for x, s in zip(e, sums, strict=True)]
            matrix = output[head] if per_head else output
            wanted = [
                sum(a * b for a, b in zip(row, states[request], strict=True)) for row in matrix
            ]
            torch.testing.assert_close(scores[request].tolist(), wanted, atol=1e-5, rtol=1e-5)


class Votes:
    """Heads whose logits on a row [H] are the row times a matrix of their own."""

    def __init__(self, n_heads: int, hidden: int) -> None:
        self.matrices = [whole_numbers(VOCAB, hidden, seed=10 + i) for i in range(n_heads)]
        self.computed: list[int] = []

    def top_tokens(self, rows: torch.Tensor, num_heads: int) -> torch.Tensor:
        tops = [(rows @ matrix.T).argmax(-1) for matrix in self.matrices[:num_heads]]
        return torch.stack(tops, dim=-1)

    def logits(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        self.computed.append(head)
        return rows @ self.matrices[head].T

    def best_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.argmax(dim=-1)


class Nothing(Scorer):
    """Adds nothing."""

    def read(self, known: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        return known

    def add(self, logits: torch.Tensor, head: int, known: torch.Tensor) -> torch.Tensor:
        return logits


def drafted(
    stride: int, num_drafts: int, scorer: Scorer | None
) -> tuple[torch.Tensor, Votes, torch.Tensor]:
    """A draft for two requests with six known positions each; their heads; their rows."""
    heads, rows = Votes(3, 5), whole_numbers(12, 5, seed=20)
    history = History(2, stride, 5, torch.float32, "cpu")
    decoder = BackwardDecoder(LeapSchedule(3, stride), heads, history, scorer)
    first, kept = torch.tensor([0, 6]), torch.tensor([6, 6])
    sampled = torch.tensor([3, 9])
    slots = torch.tensor([0, 1])
    draft = decoder.draft(rows, first, kept, torch.zeros(2).long(), slots, num_drafts, sampled)
    return draft, heads, rows.view(2, 6, 5)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_place_follows_the_one_before_it(stride: int) -> None:
    embed, output = whole_numbers(VOCAB + 1, RANK), 3 * whole_numbers(VOCAB, RANK, seed=1)
    for num_drafts in range(1, 3 * stride + 1):
        scorer = MarkovScorer(embed, output, rows_of_tokens(VOCAB, None))
        draft, heads, rows = drafted(stride, num_drafts, scorer)
        for request, sampled in ((0, 3), (1, 9)):
            previous = sampled
            for place in range(num_drafts):
                head, inner = divmod(place, stride)
                row = rows[request, 5 - (stride - 1 - inner)]
                votes = heads.matrices[head] @ row + output @ embed[previous]
                previous = int(votes.argmax())
                assert draft[request, place] == previous
        assert heads.computed == list(range(-(-num_drafts // stride)))  # each head once


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_scorer_that_adds_nothing_changes_nothing(stride: int) -> None:
    for num_drafts in range(3 * stride + 1):
        alone, *_ = drafted(stride, num_drafts, None)
        scored, *_ = drafted(stride, num_drafts, Nothing())
        assert torch.equal(alone, scored)
