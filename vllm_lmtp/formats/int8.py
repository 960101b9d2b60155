"""Matrices in int8 with one scale a row, which `read.dequantised` undoes: half of bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127


def quantise_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to multiples of its own scale.

    Args:
        matrix: float [..., R, C].

    Returns:
        int8 [..., R, C] and float32 scales [..., R]; `int8 * scale` is within half a scale of
        the matrix. A row of zeros has the scale 1.
    """
    matrix = matrix.detach().float()
    scale = matrix.abs().amax(dim=-1) / LARGEST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    rounded = (matrix / scale.unsqueeze(-1)).round().clamp(-LARGEST, LARGEST)
    return rounded.to(torch.int8), scale
