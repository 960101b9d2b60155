"""Heads of a folder read back for training, in float32, whatever they are stored as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from vllm_lmtp import read
from vllm_lmtp.checkpoint import read_checkpoint, safetensors_files
from vllm_lmtp.training.draft_vocab import DraftVocab
from vllm_lmtp.training.heads import LeapHeads
from vllm_lmtp.training.markov import MarkovTerm

TERM = "scorer.markov."


@dataclass(frozen=True)
class TrainedHeads:
    """heads, with the draft vocabulary they name, a Markov term where they have one, and stride."""

    heads: LeapHeads
    vocab: DraftVocab
    markov: MarkovTerm | None
    stride: int


@torch.no_grad()
def read_trained(folder: Path) -> TrainedHeads:
    """Read a heads folder that could be served.

    Raises:
        LMTPError: it could not.
    """
    checkpoint = read_checkpoint(folder)
    target_ids = read.draft_vocabulary(checkpoint)
    if target_ids is None:
        target_ids = torch.arange(checkpoint.vocab_size)
    vocab = DraftVocab(target_ids, checkpoint.vocab_size)
    n_head = checkpoint.schedule.n_heads
    heads = LeapHeads(n_head, read.output_matrix(checkpoint, 0, torch.float32))
    for i in range(n_head):
        heads[i].lm_head.weight.copy_(read.output_matrix(checkpoint, i, torch.float32))
        for kind in ("weight", "bias"):
            value = read.block_tensor(checkpoint, i, kind, torch.float32)
            heads.get_parameter(f"heads.{i}.resblock.0.l_proj.{kind}").copy_(value)
    return TrainedHeads(heads, vocab, _markov(folder, vocab, n_head), checkpoint.schedule.stride)


def _markov(folder: Path, vocab: DraftVocab, n_head: int) -> MarkovTerm | None:
    tensors: dict[str, Tensor] = {}
    for file in safetensors_files(folder):
        with safe_open(str(file), framework="pt") as handle:
            names = [n for n in handle.keys() if n.startswith(TERM)]  # noqa: SIM118
            tensors |= {name.removeprefix(TERM): handle.get_tensor(name) for name in names}
    if not tensors:
        return None
    embed, output = (
        read.dequantised(tensors[name], tensors[f"{name}_scale"])
        if tensors[name].dtype is torch.int8
        else tensors[name].float()
        for name in ("embed", "output")
    )
    term = MarkovTerm(vocab, embed.shape[1], None if output.dim() == 2 else n_head)
    term.embed.copy_(embed)
    term.output.copy_(output)
    return term
