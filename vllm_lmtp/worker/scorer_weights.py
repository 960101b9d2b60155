"""Builds a folder's scorer for one rank, strictly: every value is checked as it is read."""

from __future__ import annotations

import torch

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.formats.read import dequantised, draft_vocabulary, finite, read_tensor
from vllm_lmtp.formats.scorer_tensors import (
    CARRY,
    EMBED,
    IDS,
    OUTPUT,
    RATIOS,
    RECURRENT,
    START,
    TABLE,
    tensor_name,
)
from vllm_lmtp.formats.tensors import INT8
from vllm_lmtp.method.scorer import (
    MarkovScorer,
    RecurrentScorer,
    Scorer,
    SuccessorTable,
    local_successors,
    rows_of_tokens,
)


def build_scorer(
    checkpoint: HeadsCheckpoint, start: int, end: int, padded: int, dtype: torch.dtype
) -> Scorer | None:
    """The scorer of a checkpoint; None where it has none.

    Args:
        start, end: this rank's shard of the heads' vocabulary.
        padded: rows of its shard with padding.
        dtype: of a term.

    Raises:
        LMTPError: a value is not finite, or a successor outside the heads' vocabulary.
    """
    if checkpoint.scorer is None:
        return None
    rows = rows_of_tokens(checkpoint.vocab_size, draft_vocabulary(checkpoint))
    if checkpoint.scorer.kind == TABLE:
        ids, ratios = successor_table(checkpoint)
        if len(ids) == checkpoint.vocab_size:
            rows = torch.arange(checkpoint.vocab_size)
        places, local = local_successors(ids, ratios, start, end)
        return SuccessorTable(places, local, rows, checkpoint.scorer.weight)
    whole = term_matrix(checkpoint, OUTPUT, dtype)
    output = torch.zeros(*whole.shape[:-2], padded, whole.shape[-1], dtype=dtype)
    output[..., : end - start, :] = whole[..., start:end, :]
    embed = term_matrix(checkpoint, EMBED, dtype)
    if checkpoint.scorer.kind == RECURRENT:
        begins, carries = (term_matrix(checkpoint, part, dtype) for part in (START, CARRY))
        return RecurrentScorer(begins, carries, embed, output, rows)
    return MarkovScorer(embed, output, rows)


def stored_output(
    checkpoint: HeadsCheckpoint, start: int, end: int, padded: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """This rank's rows of a term's output matrix as they are stored, where that is int8.

    Args:
        start, end, padded: as in `build_scorer`.

    Returns:
        int8 [..., padded, r] and scales [..., padded] float32, rows of padding 0; None where there
        is no trained term, or none in int8.

    Raises:
        LMTPError: a scale is not finite.
    """
    if checkpoint.scorer is None or checkpoint.scorer.kind == TABLE:
        return None
    name = tensor_name(checkpoint.scorer.kind, OUTPUT)
    if checkpoint.tensors[name].dtype != INT8:
        return None
    whole, scales = (read_tensor(checkpoint, n) for n in (name, f"{name}_scale"))
    values = whole.new_zeros(*whole.shape[:-2], padded, whole.shape[-1])
    values[..., : end - start, :] = whole[..., start:end, :]
    rows = torch.zeros(values.shape[:-1], dtype=torch.float32)
    rows[..., : end - start] = finite(checkpoint, f"{name}_scale", scales[..., start:end].float())
    return values, rows


def term_matrix(checkpoint: HeadsCheckpoint, part: str, dtype: torch.dtype) -> torch.Tensor:
    """A matrix of a trained term in `dtype`, dequantised where it is int8.

    Raises:
        LMTPError: a value is not finite.
    """
    assert checkpoint.scorer is not None
    name = tensor_name(checkpoint.scorer.kind, part)
    value = read_tensor(checkpoint, name)
    if checkpoint.tensors[name].dtype == INT8:
        scales = f"{name}_scale"
        scale = finite(checkpoint, scales, read_tensor(checkpoint, scales).float())
        value = dequantised(value, scale)
    # A copy: what is read is mapped from the file, and whoever wrote over that file would change
    # drafts, or end the process where he cut it.
    return finite(checkpoint, name, value.to(dtype, copy=True))


def successor_table(checkpoint: HeadsCheckpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [rows, K] int32, -1 for padding, and ratios [rows, K] float16.

    Raises:
        LMTPError: ids outside the heads' vocabulary or twice in a row, or ratios not finite.
    """
    names = tensor_name(TABLE, IDS), tensor_name(TABLE, RATIOS)
    ids, ratios = (read_tensor(checkpoint, name) for name in names)
    ordered = ids.sort(dim=1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    bad = int(((ids < -1) | (ids >= checkpoint.output_rows)).sum() + twice.sum())
    if bad:
        raise refuse(
            str(checkpoint.tensors[names[0]].file),
            names[0],
            found=f"{bad} id(s) outside the heads' vocabulary, or twice in a row",
            expected=f"different ids in 0..{checkpoint.output_rows - 1}, and -1 for padding",
            remedy="build the table again: vllm-lmtp scorer build",
        )
    return ids, finite(checkpoint, names[1], ratios)
