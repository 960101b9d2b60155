"""The faster products of a trained term against torch's own, in numbers that are exact."""

from __future__ import annotations

import pytest
import torch

from tests.method.test_scorer import whole_numbers
from tests.support.one_rank_world import one_process_world  # noqa: F401
from vllm_lmtp.method.scorer import MarkovScorer, RecurrentScorer, rows_of_tokens
from vllm_lmtp.worker.cpu_term import FEW, speed_up

VOCAB, ROWS, RANK, HIDDEN, HEADS = 40, 48, 8, 16, 2


def make_term(recurrent: bool, per_head: bool, dtype: torch.dtype) -> MarkovScorer:
    shape = (HEADS, ROWS, RANK) if per_head else (ROWS, RANK)
    embed, output = whole_numbers(VOCAB + 1, RANK).to(dtype), whole_numbers(*shape, seed=1)
    output[..., VOCAB:, :] = 0
    rows = rows_of_tokens(VOCAB, None)
    if not recurrent:
        return MarkovScorer(embed, output.to(dtype), rows)
    start = whole_numbers(RANK, HIDDEN, seed=2).to(dtype)
    carry = torch.zeros(RANK, 2 * RANK, dtype=dtype)
    return RecurrentScorer(start, carry, embed, output.to(dtype), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("requests", [1, FEW, FEW + 1, 9])
def test_the_same_scores(
    recurrent: bool, per_head: bool, dtype: torch.dtype, requests: int
) -> None:
    plain, fast = (make_term(recurrent, per_head, dtype) for _ in range(2))
    speed_up(fast)
    assert not plain.products
    assert len(fast.products) == (HEADS if per_head else 1)
    logits = whole_numbers(requests, HEADS, ROWS, seed=3)
    logits[..., VOCAB:] = float("-inf")
    tokens = torch.arange(requests)
    newest = torch.zeros(requests, HIDDEN, dtype=dtype)
    for head in range(HEADS):
        wanted = plain.add(logits[:, head].clone(), head, plain.read(plain.begin(newest), tokens))
        # A place of a draft: every stride-th row of a head's logits.
        found = fast.add(logits[:, head], head, fast.read(fast.begin(newest), tokens))
        assert torch.equal(found, wanted)
        assert torch.isinf(found[:, VOCAB:]).all()
        assert not torch.isinf(found[:, :VOCAB]).any()


def test_what_has_no_such_product_is_left_as_it_is() -> None:
    speed_up(None)
