"""Heads of a folder read back for training, in float32, whatever they are stored as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from vllm_lmtp.formats import read
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_checkpoint
from vllm_lmtp.formats.scorer_tensors import CARRY, EMBED, OUTPUT, RECURRENT, START, TERMS
from vllm_lmtp.training.data.draft_vocab import DraftVocab
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.markov import MarkovTerm
from vllm_lmtp.training.model.recurrent import RecurrentTerm
from vllm_lmtp.worker.scorer_weights import term_matrix


@dataclass(frozen=True)
class TrainedHeads:
    """heads, the draft vocabulary they name, a trained term where they have one, and stride."""

    heads: LeapHeads
    vocab: DraftVocab
    term: MarkovTerm | None
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
    return TrainedHeads(heads, vocab, _term(checkpoint, vocab), checkpoint.schedule.stride)


def _term(checkpoint: HeadsCheckpoint, vocab: DraftVocab) -> MarkovTerm | None:
    kind = None if checkpoint.scorer is None else checkpoint.scorer.kind
    if kind not in TERMS:
        return None
    embed, output = (term_matrix(checkpoint, part, torch.float32) for part in (EMBED, OUTPUT))
    rank, n_head = embed.shape[1], None if output.dim() == 2 else len(output)
    term = MarkovTerm(vocab, rank, n_head)
    if kind == RECURRENT:
        term = RecurrentTerm(vocab, rank, n_head, checkpoint.hidden_size)
        term.start.copy_(term_matrix(checkpoint, START, torch.float32))
        term.carry.copy_(term_matrix(checkpoint, CARRY, torch.float32))
    term.embed.copy_(embed)
    term.output.copy_(output)
    return term
