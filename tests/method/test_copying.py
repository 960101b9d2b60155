"""Copy evidence against a brute-force search, and the mixture against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.copy_search import CopiedDraft, continuation, longest_match
from vllm_lmtp.method.best import Best
from vllm_lmtp.method.choice import Filling, Meter, Sought, mixed
from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.method.copying import (
    NO_TOKEN,
    Copied,
    Copying,
    Evidence,
    Origin,
    by_length,
    copied,
    copies_alone,
    newest_first,
)
from vllm_lmtp.method.drawn import Drawn

PLACES = 5
VOCAB = 6
NAMED = (0, 1, 3, 4)  # the tokens that heads can draft
ODDS = (-1.0, 0.2, 0.9)
ACCURACY = (0.3, 0.5, 0.9)


def turned(texts: list[list[int]], width: int) -> torch.Tensor:
    """Each text from its end on."""
    rows = [[*reversed(text), *[NO_TOKEN] * width][:width] for text in texts]
    return torch.tensor(rows, dtype=torch.int32)


TEXTS = st.lists(
    st.lists(st.integers(NO_TOKEN, 3), min_size=1, max_size=24), min_size=1, max_size=4
)


@given(TEXTS, st.integers(1, 9))
@settings(deadline=None, max_examples=300)
def test_the_longest_and_then_most_recent_match_goes_on(
    texts: list[list[int]], longest: int
) -> None:
    found = copied(turned(texts, 24), PLACES, longest)
    for row, text in enumerate(texts):
        distance, length = longest_match(text, longest)
        assert found.lengths[row] == length
        if length:
            assert found.tokens[row].tolist() == continuation(text, distance, PLACES)


def test_a_copy_runs_on_into_the_draft() -> None:
    """A text that has just begun to repeat itself goes round and round."""
    found = copied(turned([[7, 1, 2, 3, 1]], 8), 6, 4)
    assert found.tokens.tolist() == [[2, 3, 1, 2, 3, 1]]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_only_what_is_in_view_matches(width: int) -> None:
    found = copied(turned([[4, 4, 4, 4]], width), 1, 8)
    assert int(found.lengths[0]) == width - 1


def test_what_has_no_token_never_matches() -> None:
    found = copied(turned([[NO_TOKEN, NO_TOKEN], [3, NO_TOKEN, NO_TOKEN]], 3), 1, 8)
    assert found.lengths.tolist() == [0, 0]


@given(TEXTS)
@settings(deadline=None)
def test_texts_are_turned_round(texts: list[list[int]]) -> None:
    width = max(map(len, texts))
    rows = [[*text, *[99] * (width - len(text))] for text in texts]  # 99: left by another request
    tokens = torch.tensor(rows, dtype=torch.int32)
    lengths = torch.tensor([len(text) for text in texts], dtype=torch.int32)
    assert newest_first(tokens, lengths).tolist() == turned(texts, width).tolist()


def test_odds_by_length() -> None:
    never = float("-inf")
    assert by_length([1.0, 2.0, 3.0], 1, 3) == [never, 1.0, 2.0, 3.0]
    assert by_length([1.0, 2.0, 3.0], 2, 5) == [never, never, 2.0, 3.0, 3.0, 3.0]
    assert by_length([1.0, 2.0, 3.0], 1, 2) == [never, 1.0, 2.0]


class GivenTexts:
    """The texts of a test, whatever the slots."""

    def __init__(self, texts: list[list[int]]) -> None:
        self.texts = texts

    def copied(self, slots: torch.Tensor, places: int, longest: int) -> Copied:
        return copied(turned(self.texts, 32), places, longest)


class FewTokens:
    """Heads that can name some of the target's tokens."""

    def seek(self, tokens: torch.Tensor) -> Sought:
        return Sought(tokens, torch.zeros_like(tokens, dtype=torch.bool))

    def best_beside(
        self, scores: torch.Tensor, sought: Sought
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        whole = self.over_target_tokens(scores.log_softmax(dim=1))
        best = whole.argmax(dim=1)
        return best, whole.amax(dim=1), whole.gather(1, sought.rows).squeeze(1)

    def over_target_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        whole = torch.full((len(scores), VOCAB), float("-inf"))
        whole[:, list(NAMED)] = scores
        return whole


def copying_of(texts: list[list[int]], never: tuple[int, ...] = ()) -> Copying:
    sources = torch.zeros(len(texts), PLACES, dtype=torch.uint8)
    odds = by_length(ODDS, 1, len(ODDS))
    accuracy = by_length(ACCURACY, 1, len(ACCURACY), none=0.0)
    return Copying(GivenTexts(texts), odds, accuracy, VOCAB, sources, never)


def whole_draft(filling: Filling, scores: torch.Tensor) -> torch.Tensor:
    """A whole draft of the scores of its places; settled once between them."""
    places = []
    for place, found in enumerate(scores):
        places.append(filling(found, place))
        if place == 1:
            filling.settle()
    filling.settle()
    return torch.stack(places, dim=1)


def opinion_of(scores: torch.Tensor) -> dict[int, float]:
    return dict(zip(NAMED, scores.double().softmax(dim=0).tolist(), strict=True))


@given(
    st.lists(st.lists(st.integers(0, VOCAB), min_size=1, max_size=20), min_size=1, max_size=3),
    st.integers(0, 2**20),
)
@settings(deadline=None, max_examples=200)
def test_drafts_are_those_of_the_mixture(texts: list[list[int]], seed: int) -> None:
    """Token, source and confidence of every place, against probabilities written out. Token
    `VOCAB` stands for one that the target cannot sample."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(PLACES, len(texts), len(NAMED), generator=generator)
    copying = copying_of(texts)
    lines = [(0.9, 0.1 * place) for place in range(PLACES)]
    into = torch.zeros(len(texts), PLACES)
    chooser = Best(FewTokens(), Meter(Confidence(lines, PLACES), into))  # type: ignore[arg-type]
    copy = copying.begin(torch.arange(len(texts)), PLACES)
    drafts = whole_draft(chooser.begin(copy), scores)
    for row, text in enumerate(texts):
        held = CopiedDraft(text, PLACES, ODDS, VOCAB)
        for place in range(PLACES):
            weight = held.weight(place)
            token, share, from_text = held.fill(place, opinion_of(scores[place, row]))
            assert drafts[row, place] == token
            assert copying.sources[row, place] == held.origins[place]
            odds = max(-60.0, math.log(share / (1 - share))) if share else -60.0
            line = 1 / (1 + math.exp(-(lines[place][0] * odds + lines[place][1])))
            expected = (1 - weight) * line + weight * from_text
            assert float(into[row, place]) == pytest.approx(expected, abs=1e-4)


def test_the_mixture_is_a_distribution() -> None:
    scores = torch.randn(3, VOCAB)
    text = Evidence(torch.tensor([2, 0, 5]), torch.tensor([0.7, 0.0, 0.2]))
    found = mixed(scores, text).exp()
    assert torch.allclose(found.sum(dim=1), torch.ones(3))
    alone = scores.softmax(dim=1)
    assert torch.allclose(found[1], alone[1])
    assert float(found[0, 2]) == pytest.approx(0.7 + 0.3 * float(alone[0, 2]), rel=1e-5)


def test_what_is_drawn_is_drawn_from_the_mixture() -> None:
    """Also where the heads cannot name the text's token."""
    texts = [[2, 1, 2, 1], [5]]
    copying = copying_of(texts)
    seen = []

    def draw(scores: torch.Tensor, place: int) -> torch.Tensor:
        seen.append(scores.softmax(dim=1))
        return torch.tensor([2, 0])

    scores = torch.randn(2, len(NAMED))
    copy = copying.begin(torch.arange(2), PLACES)
    filling = Drawn(FewTokens(), draw).begin(copy)  # type: ignore[arg-type]
    assert filling(scores, 0).tolist() == [2, 0]
    filling.settle()
    weight = 1 / (1 + math.exp(-ODDS[1]))
    alone = FewTokens().over_target_tokens(scores).softmax(dim=1)
    expected = (1 - weight) * alone[0]
    expected[2] += weight
    assert torch.allclose(seen[0][0], expected, atol=1e-6)
    assert torch.allclose(seen[0][1], alone[1], atol=1e-6)
    assert copying.sources[:, 0].tolist() == [Origin.TEXT, Origin.HEADS]


def test_placeholders_are_never_copied() -> None:
    copy = copying_of([[1, 4, 1]], never=(4,)).begin(torch.arange(1), PLACES)
    assert float(copy.at(0).weights[0]) == 0


@pytest.mark.parametrize(
    ("texts", "undecided"),
    [([[1, 2, 3, 1, 2]], []), ([[1, 2, 3, 1, 2], [1, 2]], [1]), ([[1, 2, 1]], [0])],
)
def test_texts_that_outweigh_the_heads_decide_alone(
    texts: list[list[int]], undecided: list[int]
) -> None:
    """Each for itself, and if they do for the whole draft."""
    copying = copying_of(texts)
    copy = copying.begin(torch.arange(len(texts)), PLACES)
    assert copy.undecided().tolist() == undecided


def test_copies_alone_are_as_likely_as_their_match_is_long() -> None:
    """And nothing where the text is silent."""
    copying = copying_of([[1, 2, 3, 1, 2], [1, 2]])
    into = torch.ones(2, PLACES)
    meter = Meter(Confidence([], PLACES), into)
    copy = copying.begin(torch.arange(2), PLACES)
    draft = Best(FewTokens(), meter).copies(copy)  # type: ignore[arg-type]
    assert draft[0].tolist() == [3, 1, 2, 3, 1]
    assert copying.sources.tolist() == [[Origin.TEXT] * PLACES, [Origin.HEADS] * PLACES]
    lengths = [min(2 + place, len(ACCURACY)) for place in range(PLACES)]
    assert into[0].tolist() == pytest.approx([ACCURACY[n - 1] for n in lengths])
    assert not into[1].any()


def test_some_drafts_of_a_batch_keep_their_rows() -> None:
    """Notes of a part go where those of the whole would."""
    copying = copying_of([[1, 2], [1, 2, 3, 1, 2]])
    into = torch.zeros(2, PLACES)
    meter = Meter(Confidence([], PLACES), into)
    rows = torch.tensor([1])
    copy = copying.begin(torch.arange(2), PLACES).of(rows)
    Best(FewTokens(), meter).of(rows).copies(copy)  # type: ignore[arg-type]
    assert copying.sources.tolist() == [[Origin.HEADS] * PLACES, [Origin.TEXT] * PLACES]
    assert into[1].all()
    assert not into[0].any()


@pytest.mark.parametrize(
    ("origins", "shown"),
    [
        ((), (0, 0)),
        ((Origin.HEADS, Origin.TEXT), (0, 0)),
        ((Origin.AGAINST_TEXT, Origin.TEXT), (1, 0)),
        ((Origin.BOTH, Origin.TEXT, Origin.AGAINST_TEXT, Origin.BOTH), (3, 2)),
        ((Origin.TEXT, Origin.BOTH, Origin.HEADS, Origin.BOTH), (2, 2)),
        ((Origin.TEXT,) * 3, (3, 3)),
    ],
)
def test_what_a_draft_shows_of_copies_alone(
    origins: tuple[int, ...], shown: tuple[int, int]
) -> None:
    assert copies_alone(origins) == shown


@given(texts=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=24), min_size=1))
@settings(max_examples=40, deadline=None)
def test_the_places_it_shows_are_those_copies_alone_would_fill(texts: list[list[int]]) -> None:
    count = len(texts)
    scores = torch.randn(PLACES, count, len(NAMED), generator=torch.Generator().manual_seed(count))
    merging, alone = copying_of(texts), copying_of(texts)
    chooser, copy = Best(FewTokens(), None), merging.begin(torch.arange(count), PLACES)  # type: ignore[arg-type]
    drafts = whole_draft(chooser.begin(copy), scores)
    left_to_text = alone.begin(torch.arange(count), PLACES)
    copies = chooser.copies(left_to_text)
    for row in range(count):
        places, same = copies_alone(merging.sources[row].tolist())
        filled = int((alone.sources[row] == Origin.TEXT).long().cumprod(0).sum())
        assert places <= filled
        assert drafts[row, :same].tolist() == copies[row, :same].tolist()
        if same < filled:
            assert places == same + 1
            assert drafts[row, same] != copies[row, same]
