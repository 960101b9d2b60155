"""`lmtp_head_dtype`: what is held, and what it comes to where it is undone at load."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
import torch

from tests.support import folders
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.read import output_matrix
from vllm_lmtp.worker.head_dtype import FP8, chosen_dtype, held_matrix, quantise, undone_matrix

BF16, INT8 = torch.bfloat16, torch.int8
BOTH = (INT8, FP8)


@pytest.mark.parametrize(
    ("asked", "kept", "stored", "wanted"),
    [
        ("auto", (), None, BF16),
        ("auto", BOTH, None, BF16),
        ("auto", (INT8,), INT8, INT8),
        ("auto", (), INT8, BF16),
        ("int8", (INT8,), None, INT8),
        ("int8", BOTH, None, INT8),
        ("int8", (), INT8, BF16),
        ("fp8", BOTH, None, FP8),
        ("fp8", (INT8,), INT8, BF16),
        ("float16", BOTH, INT8, torch.float16),
        ("float32", (), None, torch.float32),
    ],
)
def test_what_is_held(
    asked: str, kept: Collection[torch.dtype], stored: torch.dtype | None, wanted: torch.dtype
) -> None:
    assert chosen_dtype(asked, BF16, kept, stored) == wanted


@pytest.mark.parametrize(("dtype", "worst"), [(torch.int8, 0.51 / 127), (FP8, 1 / 16 + 1e-6)])
def test_quantised_rows_are_near(dtype: torch.dtype, worst: float) -> None:
    """int8 is off by half a step of the row's largest entry, float8 by 1/16 of each entry."""
    matrix = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    matrix *= 10.0 ** torch.arange(-4, 6).repeat(5).unsqueeze(1)
    matrix[7] = 0
    values, scales = quantise(matrix, dtype)
    assert (values.dtype, scales.dtype) == (dtype, torch.float32)
    undone = values.float() * scales.unsqueeze(1)
    assert torch.isfinite(undone).all()
    assert (undone[7] == 0).all()
    top = matrix.abs().amax(-1, keepdim=True)
    assert torch.allclose(undone.abs().amax(-1, keepdim=True), top)
    small = top * 2.0**-14  # float8's smallest steps are of one size
    off = (undone - matrix).abs() - small
    assert (off <= worst * (top if dtype == torch.int8 else matrix.abs())).all()


def test_int8_from_int8_is_what_is_stored(tmp_path: Path) -> None:
    tensors = folders.reduced(2, 4)
    found = read_checkpoint(folders.write(tmp_path, tensors, folders.reduced_config(4)))
    values, scales = held_matrix(found, 1, torch.int8, slice(1, 3))
    assert torch.equal(values, tensors["heads.heads.1.lm_head.weight"][1:3])
    assert torch.equal(scales, tensors["heads.heads.1.lm_head.scale"][1:3])
    exact = output_matrix(found, 1, torch.float32)
    assert torch.equal(undone_matrix(found, 1, torch.float32, "int8"), exact)
    assert not torch.equal(undone_matrix(found, 1, torch.float32, "fp8"), exact)


@pytest.mark.parametrize("asked", ["auto", "int8", "fp8"])
def test_where_it_is_undone_it_counts_the_same(tmp_path: Path, asked: str) -> None:
    found = read_checkpoint(folders.write(tmp_path, folders.heads(), folders.config()))
    exact = output_matrix(found, 0, torch.float32)
    undone = undone_matrix(found, 0, torch.float32, asked)
    if asked == "auto":
        assert torch.equal(undone, exact)
    else:
        held, scales = held_matrix(found, 0, {"int8": torch.int8, "fp8": FP8}[asked])
        assert torch.equal(undone, held.float() * scales.unsqueeze(1))
        assert not torch.equal(undone, exact)
