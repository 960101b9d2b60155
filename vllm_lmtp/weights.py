"""Reads head weights from disk into the module, strictly: each tensor is used exactly once.

A tensor-parallel rank reads only its rows of the output matrices. Values are checked as they
arrive, since a checkpoint with NaN would draft nonsense that verification hides.
"""

from __future__ import annotations

import re
from collections import defaultdict

import torch
from safetensors import safe_open

from vllm_lmtp.checkpoint import HeadsCheckpoint, TensorInfo
from vllm_lmtp.errors import refuse
from vllm_lmtp.heads import LeapHeads

_BLOCK = re.compile(r"heads\.heads\.(\d+)\.resblock\.(\d+)\.l_proj\.(weight|bias)")
_OUTPUT = re.compile(r"heads\.heads\.(\d+)\.lm_head\.weight")


def load_heads(heads: LeapHeads, checkpoint: HeadsCheckpoint) -> None:
    """Fill `heads` from `checkpoint` and let vLLM pack the weights for the platform.

    Raises:
        LMTPError: a value is not finite, or the copies of a repeated block differ.
    """
    by_file: dict[str, list[str]] = defaultdict(list)
    for name, info in sorted(checkpoint.tensors.items()):
        by_file[str(info.file)].append(name)
    for file, names in by_file.items():
        with safe_open(file, framework="pt") as handle:
            for name in names:
                _load_tensor(heads, name, handle.get_slice(name), checkpoint.tensors[name])
    for head in range(len(heads.outputs)):
        output = heads.output(head)
        output.quant_method.process_weights_after_loading(output)


def _load_tensor(heads: LeapHeads, name: str, tensor_slice: object, info: TensorInfo) -> None:
    if match := _OUTPUT.fullmatch(name):
        output = heads.output(int(match[1]))
        shard = output.shard_indices
        start, end = shard.org_vocab_start_index, shard.org_vocab_end_index
        rows = tensor_slice[start:end]  # type: ignore[index]
        output.weight.data[: end - start].copy_(_finite(name, rows.to(output.weight.dtype), info))
        output.weight.data[end - start :].zero_()
        return
    match = _BLOCK.fullmatch(name)
    assert match is not None, name
    head, layer, kind = int(match[1]), int(match[2]), match[3]
    parameter = getattr(heads.blocks[head], kind)
    value = _finite(name, tensor_slice[:].to(parameter.dtype), info)  # type: ignore[index]
    if layer == 0:
        parameter.data.copy_(value)
    elif not torch.equal(parameter.data, value.to(parameter.device)):
        raise refuse(
            str(info.file),
            name,
            found="values that differ from resblock.0",
            expected="a copy of resblock.0: the reference applies one block head_num_layers times",
            remedy="these heads were trained by other code; merge the blocks or retrain",
        )


def _finite(name: str, value: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """`value`, already in the dtype that is served: float16 cannot hold all that float32 can."""
    bad = int(value.numel() - torch.isfinite(value).sum())
    if bad:
        raise refuse(
            str(info.file),
            name,
            found=f"{bad} value(s) that are NaN or infinite",
            expected=f"finite values in {value.dtype}",
            remedy="the training run diverged or the file is damaged; use an earlier checkpoint",
        )
    return value
