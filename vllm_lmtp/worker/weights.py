"""Fills the heads' module from disk, strictly: each tensor is used exactly once.

A tensor-parallel rank reads only its rows of the output matrices. Values are checked as they
arrive, since a checkpoint with NaN would draft nonsense that verification hides.
"""

from __future__ import annotations

import torch

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.formats.read import block_tensor, finite, read_tensor
from vllm_lmtp.formats.tensors import block_name
from vllm_lmtp.worker.cpu_int8 import can_multiply
from vllm_lmtp.worker.head_dtype import held_matrix, undone_matrix
from vllm_lmtp.worker.heads import LeapHeads


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
    if heads.scales and can_multiply():
        heads.pack_int8()


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
