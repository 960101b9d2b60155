"""Reads the tensors of leap heads as they are used: in floating point, finite, and mapped.

The one place that knows how an int8 matrix and its scales become numbers, and what `heads.d2t`
means; serving, measuring and converting all ask here.
"""

from __future__ import annotations

import torch
from safetensors import safe_open

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.formats.tensors import D2T, INT8, block_name, output_name, scale_name

EVERYTHING = slice(None)


def output_matrix(
    checkpoint: HeadsCheckpoint, head: int, dtype: torch.dtype, rows: slice = EVERYTHING
) -> torch.Tensor:
    """Rows of a head's output matrix, [rows, H] in `dtype`, dequantised where it is int8.

    Raises:
        LMTPError: a value is not finite in `dtype`.
    """
    name = output_name(head)
    weight = read_tensor(checkpoint, name, rows)
    if checkpoint.tensors[name].dtype == INT8:
        scales = scale_name(head)
        scale = finite(checkpoint, scales, read_tensor(checkpoint, scales, rows).float())
        weight = dequantised(weight, scale)
    return finite(checkpoint, name, weight.to(dtype))


def dequantised(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """int8 [..., columns] times its scales [...], one a row, in float32."""
    return weight.float() * scale.float().unsqueeze(-1)


def block_tensor(
    checkpoint: HeadsCheckpoint, head: int, kind: str, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """The weight [H, H] or bias [H] of a head's residual block, in `dtype` or as stored.

    Raises:
        LMTPError: a value is not finite in that dtype.
    """
    name = block_name(head, kind)
    stored = read_tensor(checkpoint, name)
    return finite(checkpoint, name, stored.to(dtype or stored.dtype))


def draft_vocabulary(checkpoint: HeadsCheckpoint) -> torch.Tensor | None:
    """The target's token of every draft token, [D] int64; None where the heads draft all of V.

    Stored as in EAGLE-3's checkpoints: `heads.d2t[j]` is the target's id less j.

    Raises:
        LMTPError: ids outside the target's vocabulary, or not strictly increasing. Only increasing
            ids let a tie go to the smaller id in either vocabulary.
    """
    if checkpoint.draft_vocab_size is None:
        return None
    ids = torch.arange(checkpoint.draft_vocab_size) + read_tensor(checkpoint, D2T)
    wrong = (ids < 0) | (ids >= checkpoint.vocab_size)
    wrong[1:] |= ids[1:] <= ids[:-1]
    if wrong.any():
        first = int(wrong.nonzero()[0])
        before = "" if first == 0 else f", after {int(ids[first - 1])}"
        raise refuse(
            str(checkpoint.tensors[D2T].file),
            D2T,
            found=f"draft token {first} as target token {int(ids[first])}{before}",
            expected=f"strictly increasing target ids in 0..{checkpoint.vocab_size - 1}",
            remedy="restore the tensor; it holds differences, target id less draft id",
        )
    return ids


def read_tensor(checkpoint: HeadsCheckpoint, name: str, rows: slice = EVERYTHING) -> torch.Tensor:
    """Rows of one tensor, as stored: mapped from the file, so who keeps it keeps a copy of it."""
    with safe_open(str(checkpoint.tensors[name].file), framework="pt") as handle:
        part: torch.Tensor = handle.get_slice(name)[rows]
        return part


def finite(checkpoint: HeadsCheckpoint, name: str, value: torch.Tensor) -> torch.Tensor:
    """`value`, already in the dtype that is used: float16 cannot hold all that float32 can.

    Raises:
        LMTPError: a value is not finite.
    """
    bad = int(value.numel() - torch.isfinite(value).sum())
    if bad:
        raise refuse(
            str(checkpoint.tensors[name].file),
            name,
            found=f"{bad} value(s) that are NaN or infinite",
            expected=f"finite values in {value.dtype}",
            remedy="the training run diverged or the file is damaged; use an earlier checkpoint",
        )
    return value
