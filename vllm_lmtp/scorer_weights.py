"""Builds a folder's scorer for one rank, strictly: every value is checked as it is read."""

from __future__ import annotations

import torch

from vllm_lmtp.checkpoint import HeadsCheckpoint
from vllm_lmtp.errors import refuse
from vllm_lmtp.read import dequantised, draft_vocabulary, finite, read_tensor
from vllm_lmtp.scorer import (
    MarkovScorer,
    Scorer,
    SuccessorTable,
    local_successors,
    rows_of_tokens,
)
from vllm_lmtp.scorer_tensors import (
    MARKOV,
    MARKOV_EMBED,
    MARKOV_OUTPUT,
    TABLE_IDS,
    TABLE_RATIOS,
)
from vllm_lmtp.tensors import INT8


def build_scorer(
    checkpoint: HeadsCheckpoint, start: int, end: int, padded: int, dtype: torch.dtype
) -> Scorer | None:
    """The scorer of a checkpoint; None where it has none.

    Args:
        start, end: this rank's shard of the heads' vocabulary.
        padded: rows of its shard with padding.
        dtype: of a Markov term.

    Raises:
        LMTPError: a value is not finite, or a successor outside the heads' vocabulary.
    """
    if checkpoint.scorer is None:
        return None
    rows = rows_of_tokens(checkpoint.vocab_size, draft_vocabulary(checkpoint))
    if checkpoint.scorer.kind == MARKOV:
        whole = markov_matrix(checkpoint, MARKOV_OUTPUT, dtype)
        output = torch.zeros(*whole.shape[:-2], padded, whole.shape[-1], dtype=dtype)
        output[..., : end - start, :] = whole[..., start:end, :]
        return MarkovScorer(markov_matrix(checkpoint, MARKOV_EMBED, dtype), output, rows)
    ids, ratios = successor_table(checkpoint)
    if len(ids) == checkpoint.vocab_size:
        rows = torch.arange(checkpoint.vocab_size)
    places, local = local_successors(ids, ratios, start, end)
    return SuccessorTable(places, local, rows, checkpoint.scorer.weight)


def markov_matrix(checkpoint: HeadsCheckpoint, name: str, dtype: torch.dtype) -> torch.Tensor:
    """A matrix of the Markov term in `dtype`, dequantised where it is int8.

    Raises:
        LMTPError: a value is not finite.
    """
    value = read_tensor(checkpoint, name)
    if checkpoint.tensors[name].dtype == INT8:
        scales = f"{name}_scale"
        scale = finite(checkpoint, scales, read_tensor(checkpoint, scales).float())
        value = dequantised(value, scale)
    return finite(checkpoint, name, value.to(dtype))


def successor_table(checkpoint: HeadsCheckpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [rows, K] int32, -1 for padding, and ratios [rows, K] float16.

    Raises:
        LMTPError: ids outside the heads' vocabulary or twice in a row, or ratios not finite.
    """
    ids, ratios = read_tensor(checkpoint, TABLE_IDS), read_tensor(checkpoint, TABLE_RATIOS)
    ordered = ids.sort(dim=1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    bad = int(((ids < -1) | (ids >= checkpoint.output_rows)).sum() + twice.sum())
    if bad:
        raise refuse(
            str(checkpoint.tensors[TABLE_IDS].file),
            TABLE_IDS,
            found=f"{bad} id(s) outside the heads' vocabulary, or twice in a row",
            expected=f"different ids in 0..{checkpoint.output_rows - 1}, and -1 for padding",
            remedy="build the table again: vllm-lmtp scorer build",
        )
    return ids, finite(checkpoint, TABLE_RATIOS, ratios)
