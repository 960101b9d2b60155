"""The best tokens of a head on given rows, read straight from the checkpoint's files.

docs/checkpoints.md defines the tensors: heads over a draft vocabulary come with `heads.d2t`, and
int8 output matrices with a scale for each row.
"""

from __future__ import annotations

import torch
from safetensors import safe_open

from vllm_lmtp.checkpoint import HeadsCheckpoint

CHUNK = 256
D2T = "heads.d2t"


def draft_vocabulary(checkpoint: HeadsCheckpoint) -> torch.Tensor | None:
    """[D] int64, the target's id of each token that the heads can name; None where that is all."""
    if D2T not in checkpoint.tensors:
        return None
    d2t = _read(checkpoint, D2T)
    return torch.arange(len(d2t)) + d2t


def best_tokens(
    checkpoint: HeadsCheckpoint, head: int, rows: torch.Tensor, count: int
) -> torch.Tensor:
    """The `count` best tokens of one head on each row, computed in the rows' dtype and place.

    Args:
        rows: [N, H].

    Returns:
        [N, count] int64 ids of the target's vocabulary, best first; fewer columns where the head
        knows fewer tokens.
    """
    prefix = f"heads.heads.{head}"
    weight, bias, output = (
        _read(checkpoint, f"{prefix}.{part}")
        for part in ("resblock.0.l_proj.weight", "resblock.0.l_proj.bias", "lm_head.weight")
    )
    scale = f"{prefix}.lm_head.scale"
    if scale in checkpoint.tensors:
        output = output.float() * _read(checkpoint, scale).float().unsqueeze(1)
    weight, bias, output = (t.to(rows) for t in (weight, bias, output))
    found = []
    for x in torch.split(rows, CHUNK):
        for _ in range(checkpoint.num_layers):
            x = x + torch.nn.functional.silu(torch.nn.functional.linear(x, weight, bias))
        found.append((x @ output.T).topk(min(count, len(output))).indices.cpu())
    best = torch.cat(found)
    vocabulary = draft_vocabulary(checkpoint)
    return best if vocabulary is None else vocabulary[best]


def _read(checkpoint: HeadsCheckpoint, name: str) -> torch.Tensor:
    with safe_open(str(checkpoint.tensors[name].file), framework="pt") as handle:
        return handle.get_tensor(name)
