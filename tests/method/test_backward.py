"""`BackwardDecoder` with heads that tell which row they read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.best import Best
from vllm_lmtp.method.choice import Meter, Simply, Sought
from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.method.copying import NO_TOKEN, Copied, Copying, Origin, by_length
from vllm_lmtp.method.history import History
from vllm_lmtp.method.lazy_history import LazyHistory
from vllm_lmtp.method.leap import LeapSchedule

TOKENS = 30_000


class TellingHeads:
    """Head i "predicts" the number i * 10000 + request * 100 + position of the row it read."""

    def __init__(self) -> None:
        self.computed: list[int] = []

    def top_tokens(self, rows: torch.Tensor, num_heads: int) -> torch.Tensor:
        self.computed.append(num_heads)
        row = (rows[:, 0] * 100 + rows[:, 1]).long()
        return torch.stack([10000 * head + row for head in range(num_heads)], dim=-1)

    def logits(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        self.computed.append(head)
        row = 10000 * head + (rows[:, 0] * 100 + rows[:, 1]).long()
        return torch.nn.functional.one_hot(row, TOKENS)

    def seek(self, tokens: torch.Tensor) -> Sought:
        return Sought(tokens, torch.zeros_like(tokens, dtype=torch.bool))

    def best_beside(
        self, scores: torch.Tensor, sought: Sought
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        likely = scores.log_softmax(dim=1)
        beside = likely.gather(1, sought.rows).squeeze(1)
        return likely.argmax(dim=1), likely.amax(dim=1), beside


LIKELIEST = Simply(lambda scores, place: scores.argmax(dim=-1))
"""It knows no texts and notes nothing."""


class SilentHeads:
    """Heads that nobody may ask."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"{name} was asked for")


class GivenTexts:
    """The texts of some requests go on with these tokens, after a match of one token."""

    def __init__(self, **tokens: list[int]) -> None:
        self.tokens = {int(request.removeprefix("r")): list_ for request, list_ in tokens.items()}

    def copied(self, slots: torch.Tensor, places: int, longest: int) -> Copied:
        none = [NO_TOKEN] * places
        found = [self.tokens.get(slot, none)[:places] for slot in slots.tolist()]
        lengths = [int(slot in self.tokens) for slot in slots.tolist()]
        return Copied(torch.tensor(found), torch.tensor(lengths))


def copying_of(odds: float = 5.0, **tokens: list[int]) -> Copying:
    sources = torch.zeros(3, 6, dtype=torch.uint8)
    return Copying(GivenTexts(**tokens), by_length([odds], 1, 1), [0.0, 0.5], TOKENS, sources)


def make_decoder(n_heads: int, stride: int) -> BackwardDecoder:
    history = History(3, stride, 2, torch.float32, "cpu")
    return BackwardDecoder(LeapSchedule(n_heads, stride), TellingHeads(), history)


def rows(request: int, start: int, stop: int) -> torch.Tensor:
    positions = torch.arange(start, stop).float()
    return torch.stack([torch.full_like(positions, request), positions], dim=-1)


def draft(
    decoder: BackwardDecoder,
    batch: list[tuple[int, int, int, int]],
    num_drafts: int,
    **options: Any,
) -> list[list[int]]:
    """batch: (request, start, kept, rejected) for each; request r has slot r."""
    lengths = torch.tensor([kept + rejected for _, _, kept, rejected in batch])
    hidden = [rows(r, s, s + kept + rejected) for r, s, kept, rejected in batch]
    return decoder.draft(
        torch.cat(hidden),
        lengths.cumsum(0) - lengths,
        torch.tensor([kept for _, _, kept, _ in batch]),
        torch.tensor([start for _, start, _, _ in batch]),
        torch.tensor([request for request, *_ in batch]),
        num_drafts,
        **options,
    ).tolist()


def expected(request: int, last: int, stride: int, num_drafts: int) -> list[int]:
    """Place p is head p // k read at lag k - 1 - p % k."""
    return [
        10000 * (p // stride) + 100 * request + last - (stride - 1 - p % stride)
        for p in range(num_drafts)
    ]


SHAPES = [(n, k) for n in range(1, 4) for k in range(1, 5)]


@pytest.mark.parametrize(("n_heads", "stride"), SHAPES)
def test_every_place_reads_its_head_at_its_lag(n_heads: int, stride: int) -> None:
    for num_drafts in range(n_heads * stride + 1):
        decoder = make_decoder(n_heads, stride)
        # Request 1 in the middle of a prompt, request 0 with two rejected rows, request 2 resumed.
        draft(decoder, [(1, 0, 7, 0), (0, 0, 5, 0)], num_drafts)
        got = draft(decoder, [(0, 5, 1, 2), (2, 20, 6, 0), (1, 7, 2, 0)], num_drafts)
        assert got == [
            expected(r, last, stride, num_drafts) for r, last in ((0, 5), (2, 25), (1, 8))
        ]


@pytest.mark.parametrize(("n_heads", "stride"), SHAPES)
def test_only_the_heads_needed_are_computed(n_heads: int, stride: int) -> None:
    decoder = make_decoder(n_heads, stride)
    for num_drafts in range(n_heads * stride + 1):
        decoder.heads.computed.clear()
        draft(decoder, [(0, 0, 4, 0)], num_drafts)
        assert decoder.heads.computed == ([-(-num_drafts // stride)] if num_drafts else [])


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_heads_that_would_fill_hopeless_places_are_not_computed(stop: int) -> None:
    decoder = make_decoder(3, 2)
    asked: list[int] = []

    def worth(filled: int, rows: torch.Tensor | None) -> bool:
        asked.append(filled)
        return filled < stop

    one, nothing = torch.tensor([9]), torch.tensor([0])
    step = (rows(0, 0, 9), nothing, one, nothing, nothing)
    got = decoder.draft(*step, 6, None, LIKELIEST, worth)
    assert got.tolist() == [expected(0, 8, 2, stop)]
    assert decoder.heads.computed == list(range(stop // 2))
    assert asked == [filled for filled in (2, 4) if filled <= stop]


def test_order_for_two_heads_of_stride_two() -> None:
    """Head 0 at the last position but one, head 0 at the last, head 1 likewise."""
    assert draft(make_decoder(2, 2), [(0, 0, 9, 0)], 4) == [[7, 8, 10007, 10008]]


def test_no_drafts_wanted_still_advances_the_history() -> None:
    decoder = make_decoder(1, 3)
    draft(decoder, [(0, 0, 4, 0)], 3)
    assert draft(decoder, [(0, 4, 1, 3)], 0) == [[]]
    assert draft(decoder, [(0, 5, 1, 3)], 3) == [[3, 4, 5]]


def test_draft_is_int64_for_any_number_of_places() -> None:
    decoder = make_decoder(2, 2)
    one = torch.tensor([1])
    zero = torch.tensor([0])
    for num_drafts in (0, 1, 4):
        got = decoder.draft(rows(0, 0, 1), zero, one, zero, zero, num_drafts)
        assert (got.dtype, got.shape) == (torch.int64, (1, num_drafts))


@pytest.mark.parametrize("may_look", [False, True])
@pytest.mark.parametrize(("n_heads", "stride"), SHAPES)
def test_texts_that_say_nothing_change_nothing(n_heads: int, stride: int, may_look: bool) -> None:
    """Drafts are those without copying; who may look asks for the places of all heads at once."""
    batch = [(1, 0, 7, 0), (0, 0, 5, 2)]
    for num_drafts in range(1, min(n_heads * stride, 6) + 1):
        wanted = draft(make_decoder(n_heads, stride), batch, num_drafts)
        decoder = make_decoder(n_heads, stride)
        decoder.copying = copying_of()
        best = Best(decoder.heads, None)  # type: ignore[arg-type]
        assert draft(decoder, batch, num_drafts, choose=best, may_look=may_look) == wanted
        needed = -(-num_drafts // stride)
        assert decoder.heads.computed == ([needed] if may_look else list(range(needed)))
        assert not decoder.copying.sources.any()


@pytest.mark.parametrize("history", [History, LazyHistory])
def test_no_head_is_asked_where_every_text_decides(history: type[History]) -> None:
    """The history takes note of such a step: the next draft reads its rows."""
    decoder = make_decoder(2, 2)
    decoder.history = history(3, 2, 2, torch.float32, "cpu")
    decoder.copying = copying_of(r0=[7, 8, 9, 10], r1=[4, 4, 4, 4])
    decoder.heads, telling = SilentHeads(), decoder.heads
    spared = Best(decoder.heads, None)  # type: ignore[arg-type]
    got = draft(decoder, [(1, 0, 7, 0), (0, 0, 5, 2)], 4, choose=spared, may_look=True)
    assert got == [[4, 4, 4, 4], [7, 8, 9, 10]]
    assert (decoder.copying.sources[:2, :4] == Origin.TEXT).all()

    decoder.heads, decoder.copying = telling, None
    got = draft(decoder, [(0, 5, 1, 0), (1, 7, 1, 0)], 4)
    assert got == [expected(0, 5, 2, 4), expected(1, 7, 2, 4)]


@pytest.mark.parametrize(
    ("odds", "tokens", "computed"),
    [
        (5.0, {"r0": [7, 8, 9, 10]}, [2]),  # request 1 has no match: its heads all at once
        (5.0, {"r0": [7, 8, 9, 10], "r1": [4, 4, 4, TOKENS]}, [0, 1]),  # no token of the target's
        (-0.1, {"r0": [7, 8, 9, 10], "r1": [4, 4, 4, 4]}, [0, 1]),  # the heads could outweigh them
    ],
)
def test_heads_are_asked_where_any_text_might_not_decide(
    odds: float, tokens: dict[str, list[int]], computed: list[int]
) -> None:
    decoder = make_decoder(2, 2)
    decoder.copying = copying_of(odds, **tokens)
    best = Best(decoder.heads, None)  # type: ignore[arg-type]
    batch = [(0, 0, 5, 0), (1, 0, 7, 0)]
    draft(decoder, batch, 4, choose=best, may_look=True)
    assert decoder.heads.computed == computed


def test_heads_are_asked_about_the_drafts_that_texts_leave_them() -> None:
    """Each request gets what it would get alone, and the history keeps both."""
    decoder = make_decoder(2, 2)
    decoder.copying = copying_of(r0=[7, 8, 9, 10])
    best = Best(decoder.heads, None)  # type: ignore[arg-type]
    got = draft(decoder, [(1, 0, 7, 0), (0, 0, 5, 2)], 4, choose=best, may_look=True)
    assert got == [expected(1, 6, 2, 4), [7, 8, 9, 10]]
    assert decoder.copying.sources[:2, :4].tolist() == [[Origin.HEADS] * 4, [Origin.TEXT] * 4]
    decoder.copying = None
    assert draft(decoder, [(0, 5, 1, 0)], 4) == [expected(0, 5, 2, 4)]


def test_nothing_of_a_text_is_kept_behind_the_end_of_a_draft() -> None:
    """Its text went on, but the draft was not worth more rows and may have left it before."""
    decoder = make_decoder(2, 2)
    decoder.copying = copying_of(r0=[7, 8, 9, 10], r1=[4, 4, 4, TOKENS])
    into = torch.full((2, 4), 0.5)
    best = Best(decoder.heads, Meter(Confidence([], 4), into))  # type: ignore[arg-type]
    batch = [(0, 0, 5, 0), (1, 0, 7, 0)]
    draft(decoder, batch, 4, choose=best, may_look=True, worth=lambda filled, _: filled < 2)
    assert decoder.copying.sources[0, :4].tolist() == [Origin.TEXT] * 4
    assert decoder.copying.sources[1, :4].tolist() == [Origin.TEXT] * 2 + [Origin.HEADS] * 2
    assert into[0].all()
    assert into[1].tolist() == [into[1, 0], into[1, 1], 0.0, 0.0]


def test_copies_alone_ask_no_head() -> None:
    """What a silent text goes on with is nobody's business; it says how likely that is: not."""
    decoder = make_decoder(2, 2)
    decoder.copying = copying_of(odds=-3.0, r0=[7, 8, 9, 10])
    decoder.heads, telling = SilentHeads(), decoder.heads
    into = torch.ones(2, 4)
    best = Best(decoder.heads, Meter(Confidence([], 4), into))  # type: ignore[arg-type]
    batch = [(1, 0, 7, 0), (0, 0, 5, 2)]
    got = draft(decoder, batch, 4, choose=best, may_look=True, ask_heads=False)
    assert got[1] == [7, 8, 9, 10]
    assert into.tolist() == [[0.0] * 4, [0.5] * 4]
    decoder.heads, decoder.copying = telling, None
    assert draft(decoder, [(0, 5, 1, 0)], 4) == [expected(0, 5, 2, 4)]


def test_a_drawn_draft_asks_the_heads_whatever_the_texts_say() -> None:
    """A draw may leave the text, and the rejection sampler must know what it was drawn from."""
    decoder = make_decoder(2, 2)
    decoder.copying = copying_of(r0=[7, 8, 9, 10])
    draft(decoder, [(0, 0, 5, 0)], 4, choose=LIKELIEST, may_look=True)
    assert decoder.heads.computed == [0, 1]
