"""The copy look-up against plain torch and a brute-force search; run as `cases.py` is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import triton

from tests.support.copy_search import continuation, longest_match
from vllm_lmtp.method.copying import NO_TOKEN, Copied, copied, newest_first
from vllm_lmtp.runner_v2.texts import SlotTexts
from vllm_lmtp.worker.kernels import copying

INTERPRETED = triton.knobs.runtime.interpret
DEVICE = "cpu" if INTERPRETED else "cuda"
BLOCK = copying.BLOCK


@pytest.fixture(autouse=True)
def scratch_holds_the_largest_keys() -> Iterator[None]:
    """What nobody wrote is large, so that reading it changes what is found."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def in_table(texts: list[list[int]], width: int, rng: random.Random) -> torch.Tensor:
    """A table of the texts, behind each of which stands what another request left there."""
    tokens = {token for text in texts for token in text} or {0}
    left = [[rng.choice(sorted(tokens)) for _ in range(width - len(text))] for text in texts]
    rows = [[*text, *rest] for text, rest in zip(texts, left, strict=True)]
    return torch.tensor(rows, dtype=torch.int32)


def found_by_kernel(
    table: torch.Tensor, total_len: torch.Tensor, slots: torch.Tensor, places: int, longest: int
) -> Copied:
    on_device = [tensor.to(DEVICE) for tensor in (table, total_len, slots)]
    found = copying.copied_by_slot(*on_device, places, longest)
    return Copied(found.tokens.cpu(), found.lengths.cpu())


def check(
    texts: list[list[int]],
    width: int,
    slots: list[int],
    places: int,
    longest: int,
    searched: bool = True,
) -> None:
    """The kernel's answer must be torch's, and the search's where that is not too slow."""
    table = in_table(texts, width, random.Random(0))
    total_len = torch.tensor([len(text) for text in texts], dtype=torch.int32)
    rows = torch.tensor(slots)
    got = found_by_kernel(table, total_len, rows, places, longest)
    wanted = copied(newest_first(table[rows], total_len[rows]), places, longest)
    assert (got.tokens.dtype, got.lengths.dtype) == (torch.int64, torch.int64)
    assert got.lengths.tolist() == wanted.lengths.tolist()
    assert got.tokens.tolist() == wanted.tokens.tolist()
    for row, slot in enumerate(slots if searched else ()):
        distance, length = longest_match(texts[slot], longest)
        assert int(got.lengths[row]) == length
        if length:
            assert got.tokens[row].tolist() == continuation(texts[slot], distance, places)


@pytest.mark.parametrize("block", [8, 32])
@pytest.mark.parametrize("seed", range(20))
def test_random_texts(block: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens, so that many matches are equally long; texts of any length up to the width."""
    monkeypatch.setattr(copying, "BLOCK", block)
    rng = random.Random(seed)
    width = rng.choice([1, 2, 3, rng.randint(4, 20), rng.randint(20, 70)])
    alphabet = range(rng.choice([NO_TOKEN, 0]), rng.choice([1, 2, 4, 9]))
    texts = [
        rng.choices(alphabet, k=rng.choice([1, width, rng.randint(1, width)]))
        for _ in range(rng.randint(1, 4))
    ]
    slots = [rng.randrange(len(texts)) for _ in range(rng.randint(1, 3))]
    check(texts, width, slots, rng.randint(1, 9), rng.choice([1, 2, 3, 5, 8, 20]))


@pytest.mark.parametrize("longest", [1, 8])
def test_texts_of_several_blocks(longest: int) -> None:
    """As served: lengths about the bounds of blocks, matches that reach across them."""
    rng = random.Random(longest)
    width = 2 * BLOCK + 300
    lengths = [1, 2, BLOCK, BLOCK + 1, BLOCK + 2, 2 * BLOCK + 1, 2 * BLOCK + 2, width]
    texts = [rng.choices(range(3), k=length) for length in lengths]
    for text in texts[2:]:
        text[-8:] = range(10, 18)
    for text in texts[4:]:
        text[BLOCK - 3 : BLOCK + 5] = range(10, 18)  # of no other block a match as long
    check(texts, width, list(range(len(texts))), 6, longest, searched=False)


def test_of_equals_the_most_recent_whatever_its_block() -> None:
    text = [5] * (3 * BLOCK)
    check([text, text[: BLOCK + 1]], 3 * BLOCK, [0, 1], 3, 8, searched=False)
    for at in (BLOCK - 1, BLOCK, 2 * BLOCK - 1):  # each more recent than those before it
        text = [*range(100, 100 + 3 * BLOCK)]
        text[40], text[at], text[-1] = 7, 7, 7
        check([text], 3 * BLOCK, [0], 3, 8, searched=False)


def test_matches_as_long_as_can_be_told() -> None:
    check([[4, 5] * 80, [4] * 30, [4] * 127, [4] * 129], 160, [0, 1, 2, 3], 3, 127)


def test_texts_of_no_token_or_one() -> None:
    check([[], [3], [NO_TOKEN]], 20, [2, 0, 1], 4, 8)
    check([[], [3]], 1, [1, 0], 4, 8)


def test_what_has_no_token_never_matches() -> None:
    none = [NO_TOKEN]
    check([none * 5, [1, *none, 1, *none], [1, *none, 2, 1, *none, 2]], 9, [0, 1, 2], 3, 8)


def test_large_tokens() -> None:
    text = [2**31 - 1, 2**31 - 2, 0, 2**31 - 1]
    check([text], 6, [0], 5, 8)


def test_a_slot_that_no_request_has_is_not_read() -> None:
    table = torch.ones(2, 12, dtype=torch.int32)
    total_len, slots = torch.tensor([12, 9], dtype=torch.int32), torch.tensor([2, 1, 10**12])
    found = found_by_kernel(table, total_len, slots, 3, 4)
    assert found.lengths.tolist() == [0, 4, 0]
    assert found.tokens[1].tolist() == [1, 1, 1]


def test_a_length_beyond_the_table_reads_no_other_text() -> None:
    table = torch.tensor([[1, 2, 1], [2, 1, 2]], dtype=torch.int32)
    found = found_by_kernel(table, torch.tensor([5, 3], dtype=torch.int32), torch.tensor([0]), 2, 4)
    assert (found.tokens.tolist(), found.lengths.tolist()) == ([[2, 1]], [1])


def test_nothing_asked() -> None:
    table, total_len = torch.ones(2, 5, dtype=torch.int32), torch.full((2,), 5, dtype=torch.int32)
    none = found_by_kernel(table, total_len, torch.empty(0, dtype=torch.int64), 3, 4)
    assert (none.tokens.shape, none.lengths.shape) == ((0, 3), (0,))
    no_places = found_by_kernel(table, total_len, torch.tensor([1]), 0, 4)
    assert (no_places.tokens.shape, no_places.lengths.tolist()) == ((1, 0), [4])


def test_rows_of_a_wider_table() -> None:
    wide = torch.randint(0, 3, (4, 90), dtype=torch.int32)
    total_len, slots = torch.tensor([40, 31, 2, 17], dtype=torch.int32), torch.tensor([3, 0, 1])
    found = found_by_kernel(wide[:, :40], total_len, slots, 5, 6)
    wanted = copied(newest_first(wide[slots, :40], total_len[slots]), 5, 6)
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.lengths, wanted.lengths)


def slot_texts(table: torch.Tensor, total_len: torch.Tensor, kernels: bool) -> SlotTexts:
    states = SimpleNamespace(
        max_num_reqs=len(table),
        all_token_ids=SimpleNamespace(gpu=table),
        total_len=SimpleNamespace(gpu=total_len),
    )
    texts = SlotTexts(states, torch.device("cpu"))
    assert not texts.kernels  # a CPU's, which has no Triton but under the interpreter
    texts.kernels = kernels
    return texts


def test_texts_of_slots_are_the_same_with_the_kernel_and_without() -> None:
    table = torch.randint(0, 2, (5, 60), dtype=torch.int32, device=DEVICE)
    total_len = torch.tensor([60, 1, 33, 12, 2], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([4, 0, 2, 2, 1, 3], device=DEVICE)
    plain, fast = (slot_texts(table, total_len, k).copied(slots, 6, 8) for k in (False, True))
    assert torch.equal(fast.tokens, plain.tokens)
    assert torch.equal(fast.lengths, plain.lengths)


if not INTERPRETED:

    def test_a_graph_reads_the_texts_as_they_are_when_it_is_replayed() -> None:
        width, count = 3 * BLOCK, 4
        table = torch.zeros(count, width, dtype=torch.int32, device=DEVICE)
        total_len = torch.ones(count, dtype=torch.int32, device=DEVICE)
        slots = torch.full((count,), count, device=DEVICE)
        copying.copied_by_slot(table, total_len, slots, 6, 8)  # compiled before it is recorded
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = copying.copied_by_slot(table, total_len, slots, 6, 8)
        for seed in range(20):
            torch.manual_seed(seed)
            table.random_(0, 3)
            total_len.random_(1, width + 1)
            slots.copy_(torch.randperm(count))
            graph.replay()
            wanted = copied(newest_first(table[slots], total_len[slots]), 6, 8)
            assert torch.equal(found.tokens, wanted.tokens)
            assert torch.equal(found.lengths, wanted.lengths)
