"""Builds the heads' module and fills it from disk, strictly: each tensor is used exactly once.

A tensor-parallel rank reads only its rows of the output matrices. Values are checked as they
arrive, since a checkpoint with NaN would draft nonsense that verification hides.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from vllm.platforms import current_platform

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.formats.read import block_tensor, draft_vocabulary, finite, read_tensor
from vllm_lmtp.formats.tensors import INT8, block_name, output_name
from vllm_lmtp.worker.cpu_int8 import can_multiply
from vllm_lmtp.worker.head_dtype import FP8, QUANTISED, chosen_dtype, held_matrix, undone_matrix
from vllm_lmtp.worker.heads import LeapHeads, has_kernels


def build_heads(checkpoint: HeadsCheckpoint, dtype: torch.dtype, asked: str = "auto") -> LeapHeads:
    """The heads of a checkpoint on the default device, their matrices held as they are best.

    Args:
        dtype: of the target. asked: `lmtp_head_dtype`.

    Raises:
        LMTPError: this GPU cannot hold them so, or as `load_heads`.
    """
    vocabulary = draft_vocabulary(checkpoint)
    held = chosen_dtype(asked, dtype, *_kept(checkpoint))
    if held == FP8 and not current_platform.has_device_capability(89):
        raise refuse(
            "this GPU",
            "lmtp_head_dtype",
            found="fp8",
            expected="compute capability 8.9 or newer for fp8",
            remedy="use int8, which takes as many bytes",
        )
    heads = LeapHeads(
        checkpoint.schedule.n_heads,
        checkpoint.num_layers,
        checkpoint.hidden_size,
        checkpoint.output_rows,
        dtype,
        None if vocabulary is None else vocabulary.to(torch.get_default_device()),
        target_vocab_size=checkpoint.vocab_size,
        held=held,
    )
    load_heads(heads, checkpoint, asked)
    if held == torch.int8 and not has_kernels():
        heads.pack_int8()
    return heads


def _kept(checkpoint: HeadsCheckpoint) -> tuple[Collection[torch.dtype], torch.dtype | None]:
    """Quantised dtypes that this device multiplies by, and the one that is best left as stored."""
    if has_kernels():
        return QUANTISED.values(), None
    if not can_multiply():
        return (), None
    names = map(output_name, range(checkpoint.schedule.n_heads))
    stored = all(checkpoint.tensors[name].dtype == INT8 for name in names)
    return (torch.int8,), torch.int8 if stored else None


def load_heads(heads: LeapHeads, checkpoint: HeadsCheckpoint, asked: str = "auto") -> None:
    """Fill `heads` from `checkpoint` and let vLLM pack the weights for the platform.

    Args:
        asked: `lmtp_head_dtype`. Heads without scales have the values that it would give.

    Raises:
        LMTPError: a value is not finite, or the copies of a repeated block differ.
    """
    for head in range(checkpoint.schedule.n_heads):
        for kind in ("weight", "bias"):
            parameter = getattr(heads.blocks[head], kind)
            parameter.data.copy_(block_tensor(checkpoint, head, kind, parameter.dtype))
            _check_copies(checkpoint, head, kind, parameter.data)
        output = heads.output(head)
        shard = output.shard_indices
        start, end = shard.org_vocab_start_index, shard.org_vocab_end_index
        rows, weight = slice(start, end), output.weight.data
        weight[end - start :].zero_()
        if heads.scales:
            held, scales = held_matrix(checkpoint, head, weight.dtype, rows)
            weight[: end - start].copy_(held)
            heads.scales[head].data[: end - start].copy_(scales)
            continue
        undone = undone_matrix(checkpoint, head, weight.dtype, asked, rows)
        weight[: end - start].copy_(undone)
        output.quant_method.process_weights_after_loading(output)


def _check_copies(checkpoint: HeadsCheckpoint, head: int, kind: str, loaded: torch.Tensor) -> None:
    """The copies of a repeated block, where the file holds them, must equal block 0."""
    for layer in range(1, checkpoint.num_layers):
        name = block_name(head, kind, layer)
        if name not in checkpoint.tensors:
            continue
        value = finite(checkpoint, name, read_tensor(checkpoint, name).to(loaded.dtype))
        if not torch.equal(loaded, value.to(loaded.device)):
            raise refuse(
                str(checkpoint.tensors[name].file),
                name,
                found="values that differ from resblock.0",
                expected="a copy of resblock.0: the reference applies one block head_num_layers "
                "times",
                remedy="these heads were trained by other code; merge the blocks or retrain",
            )
