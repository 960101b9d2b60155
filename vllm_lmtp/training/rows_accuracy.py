"""How often heads name the right token on kept rows, with and without their Markov term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vllm_lmtp.leap import LeapSchedule
from vllm_lmtp.training.draft_vocab import DraftVocab
from vllm_lmtp.training.heads import LeapHeads
from vllm_lmtp.training.kept_rows import Answer, collate
from vllm_lmtp.training.loss import pairs
from vllm_lmtp.training.markov import MarkovTerm
from vllm_lmtp.training.rows import IGNORE

TOPS = (1, 5, 10, 20)
BATCH = 16


@torch.no_grad()
def rows_accuracy(
    heads: LeapHeads,
    stride: int,
    vocab: DraftVocab,
    markov: MarkovTerm | None,
    answers: Sequence[Answer],
) -> list[dict[str, Any]]:
    """Accuracy of each head at its own offset, over every position that has a token there.

    Tokens outside the draft vocabulary count as missed.

    Returns:
        For each head {"head", "offset", "positions", "top1", "top5", "top10", "top20"}, and with a
        Markov term, given the true preceding token, "markov_top1" and so on.
    """
    schedule = LeapSchedule(len(heads), stride)
    # Outside the vocabulary: a label that no head can name, yet one that counts.
    known = vocab.draft_ids(unknown=len(vocab))
    terms = [("", None)] if markov is None else [("", None), ("markov_", markov)]
    hits = torch.zeros(len(heads), len(terms), len(TOPS), dtype=torch.int64)
    counts = torch.zeros(len(heads), dtype=torch.int64)
    for start in range(0, len(answers), BATCH):
        batch = collate(answers[start : start + BATCH])
        labels = torch.where(batch["labels"] == IGNORE, IGNORE, known[batch["labels"].clamp(min=0)])
        for i in range(len(heads)):
            offset = schedule.offset_of_head(i)
            rows, truth, previous = pairs(batch["hidden"], labels, offset, batch["tokens"])
            counts[i] += len(truth)
            logits = heads[i](rows.to(heads[i].lm_head.weight.dtype))
            for column, (_, term) in enumerate(terms):
                if term is not None:
                    logits = logits + term.embedded(previous) @ term.output_of(i).T
                found = logits.topk(min(max(TOPS), len(vocab))).indices == truth[:, None]
                hits[i, column] += torch.stack([found[:, :n].sum() for n in TOPS])
    return [
        {"head": i, "offset": schedule.offset_of_head(i), "positions": int(counts[i])}
        | {
            f"{name}top{n}": round(float(hits[i, column, place] / counts[i].clamp(min=1)), 4)
            for column, (name, _) in enumerate(terms)
            for place, n in enumerate(TOPS)
        }
        for i in range(len(heads))
    ]
