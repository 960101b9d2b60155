"""The kernels against plain torch; `test_kernels.py` runs this under Triton's interpreter.

On a machine with a GPU the same cases run there, compiled.
"""

from __future__ import annotations

import random

import pytest
import torch
import triton

from vllm_lmtp.worker.kernels.product import logits_of_rows, top_of_rows

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAN, INF = float("nan"), float("inf")


def whole(*shape: int, seed: int, top: int = 3) -> torch.Tensor:
    """Small whole numbers: products are exact in any order of summing, and often tie."""
    seeded = torch.Generator().manual_seed(seed)
    return torch.randint(-top, top + 1, shape, generator=seeded).float()


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shapes(count: int, seed: int = 0) -> list[tuple[int, int, int]]:
    """Random (rows, vocabulary, hidden); few are multiples of a block."""
    rng = random.Random(seed)
    return [(rng.choice([1, 2, 7, 16, 33, 70]), rng.randint(1, 500), rng.randint(1, 300))
            for _ in range(count)]  # fmt: skip


def exact(rows: torch.Tensor, matrix: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
    """Logits in float64."""
    product = rows.double() @ matrix.double().T
    return product if scales is None else product * scales.double()


def on_device(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    return [None if tensor is None else tensor.to(DEVICE) for tensor in tensors]


def check(
    rows: torch.Tensor,
    matrix: torch.Tensor,
    scales: torch.Tensor | None = None,
    num_tokens: int | None = None,
) -> None:
    """Whole numbers: the best must be `torch.max`'s."""
    wanted, ids = exact(rows, matrix, scales)[:, :num_tokens].max(dim=-1)
    value, got, _ = top_of_rows(*on_device(rows, matrix, scales), num_tokens)
    assert (value.dtype, got.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(value.cpu(), wanted.float(), rtol=0, atol=0, equal_nan=True)
    assert got.tolist() == ids.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", shapes(6))
def test_the_best_is_the_first_of_equals(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    count, vocab, hidden = shape
    check(whole(count, hidden, seed=1).to(dtype), whole(vocab, hidden, seed=2).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", shapes(4, seed=1))
def test_real_numbers(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    count, vocab, hidden = shape
    rows, matrix = normal(count, hidden, seed=1).to(dtype), normal(vocab, hidden, seed=2).to(dtype)
    logits = exact(rows, matrix, None)
    value, ids, mass = (part.cpu() for part in top_of_rows(*on_device(rows, matrix)))
    close = {"rtol": 1e-5, "atol": 1e-4}  # sums are float32 whatever the rows are
    torch.testing.assert_close(value, logits.amax(-1).float(), **close)
    torch.testing.assert_close(logits.gather(1, ids[:, None])[:, 0].float(), value, **close)
    torch.testing.assert_close(mass, logits.logsumexp(-1).float(), **close)
    got = logits_of_rows(*on_device(rows, matrix)).cpu()
    torch.testing.assert_close(got, logits.float(), **close)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", shapes(3, seed=2))
def test_quantised_matrices(
    shape: tuple[int, int, int], stored: torch.dtype, dtype: torch.dtype
) -> None:
    count, vocab, hidden = shape
    top = 127 if stored == torch.int8 else 7
    matrix = whole(vocab, hidden, seed=2, top=top).to(stored)
    scales = 2.0 ** torch.randint(-3, 2, (vocab,), generator=torch.Generator().manual_seed(3))
    check(whole(count, hidden, seed=1).to(dtype), matrix, scales)
    rows = normal(count, hidden, seed=4).to(dtype)
    logits = exact(rows, matrix.float(), scales).float()
    got = logits_of_rows(*on_device(rows, matrix, scales)).cpu()
    torch.testing.assert_close(got, logits, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("spoilt", ["one", "several", "all"])
def test_the_first_nan_wins(spoilt: str) -> None:
    rows, matrix = whole(5, 40, seed=1), whole(300, 40, seed=2)
    for token in {"one": [170], "several": [250, 130, 7], "all": range(300)}[spoilt]:
        matrix[token, 3] = NAN
    rows[2, 1] = NAN  # and then every logit of a row
    check(rows, matrix)
    _, _, mass = top_of_rows(*on_device(rows, matrix))
    assert mass.isnan().all()


def test_infinite_logits() -> None:
    rows, matrix = torch.ones(4, 20), whole(300, 20, seed=2)
    matrix[[280, 140], 0] = INF
    check(rows, matrix)
    assert top_of_rows(*on_device(rows, matrix))[2].tolist() == [INF] * 4
    matrix[:, 0] = -INF
    check(rows, matrix)
    assert top_of_rows(*on_device(rows, matrix))[2].tolist() == [-INF] * 4
    matrix[200, 0] = INF
    matrix[201, 0] = NAN
    check(rows, matrix)


@pytest.mark.parametrize("num_tokens", [1, 127, 128, 129, 256, 299])
def test_padding_never_counts(num_tokens: int) -> None:
    rows, matrix = -torch.ones(3, 20), whole(300, 20, seed=2).abs() + 1
    for padding in (0.0, -9.0, NAN, INF):
        matrix[num_tokens:] = padding
        check(rows, matrix, num_tokens=num_tokens)
        mass = top_of_rows(*on_device(rows, matrix, None), num_tokens)[2].cpu()
        wanted = exact(rows, matrix, None)[:, :num_tokens].logsumexp(-1)
        torch.testing.assert_close(mass, wanted.float())
        logits = logits_of_rows(*on_device(rows, matrix, None), num_tokens)
        assert (logits[:, num_tokens:] == -INF).all()
        assert logits[:, :num_tokens].isfinite().all()


def test_a_shard_of_nothing_but_padding() -> None:
    value, ids, mass = top_of_rows(*on_device(torch.ones(3, 8), torch.ones(64, 8), None), 0)
    assert value.tolist() == mass.tolist() == [-INF] * 3
    assert (ids >= 64).all()


def test_no_rows() -> None:
    value, ids, mass = top_of_rows(*on_device(torch.ones(0, 8), torch.ones(64, 8)))
    assert len(value) == len(ids) == len(mass) == 0


def test_any_strides() -> None:
    rows, matrix = whole(12, 90, seed=1), whole(260, 90, seed=2)
    spread = whole(24, 180, seed=5)
    spread[::2, ::2] = rows
    check(spread[::2, ::2], matrix)
    check(rows.T.contiguous().T, matrix)
    check(rows, matrix.T.contiguous().T)
    check(rows[3:4].expand(5, 90), matrix)
