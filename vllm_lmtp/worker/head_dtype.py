"""How the heads' output matrices are held while they serve: `lmtp_head_dtype`.

At small batch a head takes as long as reading its matrix, so half the bytes are half the time.
int8 and fp8 (float8_e4m3fn) have one scale a row. GPUs keep them so and undo them inside the
product, CPUs with AVX512-VNNI keep int8 (cpu_int8.py); elsewhere they are undone at load, which
drafts the same tokens up to rounding and saves nothing, but lets their cost in acceptance be
measured anywhere.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.formats.int8 import quantise_rows
from vllm_lmtp.formats.read import EVERYTHING, dequantised, finite, output_matrix, read_tensor
from vllm_lmtp.formats.tensors import INT8, output_name, scale_name

FP8 = torch.float8_e4m3fn
FP8_TOP = torch.finfo(FP8).max
QUANTISED = {"int8": torch.int8, "fp8": FP8}
"""What needs scales, by its name."""


def chosen_dtype(
    asked: str, model: torch.dtype, kept: Collection[torch.dtype], stored: torch.dtype | None = None
) -> torch.dtype:
    """The dtype that the matrices are held in.

    Args:
        asked: `lmtp_head_dtype`; "auto" is the model's dtype, since rounding may cost acceptance
            and, from batch 64 on, undoing it on a GPU costs time (docs/gpu.md). On a CPU int8 that
            is stored stays int8: that is the fastest for few rows, and rounds nothing more.
        model: the dtype that the target runs in.
        kept: quantised dtypes that this device multiplies by.
        stored: the dtype that "auto" leaves as it is, if it can.
    """
    if asked == "auto":
        return stored if stored is not None and stored in kept else model
    if asked in QUANTISED:
        return QUANTISED[asked] if QUANTISED[asked] in kept else model
    dtype = getattr(torch, asked)
    assert isinstance(dtype, torch.dtype)
    return dtype


def quantise(matrix: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and scales near a matrix.

    Args:
        matrix: [R, H] floating point.
        dtype: int8 or float8_e4m3fn.

    Returns:
        [R, H] in `dtype`, and [R] float32; a row's largest entry becomes the largest of `dtype`.
    """
    if dtype == torch.int8:
        return quantise_rows(matrix)
    matrix = matrix.float()
    scales = matrix.abs().amax(dim=-1) / FP8_TOP
    scales = torch.where(scales > 0, scales, 1.0)
    # A quotient may round to above the top, which float8 would make NaN.
    return (matrix / scales.unsqueeze(-1)).clamp(-FP8_TOP, FP8_TOP).to(FP8), scales


def held_matrix(
    checkpoint: HeadsCheckpoint, head: int, dtype: torch.dtype, rows: slice = EVERYTHING
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a head's output matrix in int8 or float8, and their scales, float32.

    int8 from int8 is what is stored, bit for bit.

    Raises:
        LMTPError: a value is not finite.
    """
    name = output_name(head)
    if dtype == torch.int8 and checkpoint.tensors[name].dtype == INT8:
        scales = scale_name(head)
        scale = finite(checkpoint, scales, read_tensor(checkpoint, scales, rows).float())
        return read_tensor(checkpoint, name, rows), scale
    return quantise(output_matrix(checkpoint, head, torch.float32, rows), dtype)


def undone_matrix(
    checkpoint: HeadsCheckpoint,
    head: int,
    dtype: torch.dtype,
    asked: str,
    rows: slice = EVERYTHING,
) -> torch.Tensor:
    """Rows of a head's output matrix in floating point, as `lmtp_head_dtype` = `asked` has them.

    Raises:
        LMTPError: a value is not finite in `dtype`.
    """
    if asked not in QUANTISED:
        return output_matrix(checkpoint, head, dtype, rows)
    undone = dequantised(*held_matrix(checkpoint, head, QUANTISED[asked], rows))
    return finite(checkpoint, output_name(head), undone.to(dtype))
