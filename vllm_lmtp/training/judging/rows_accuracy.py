"""How often heads name the right token on kept rows, with and without their term."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.data.draft_vocab import DraftVocab
from vllm_lmtp.training.data.kept_rows import Answer, collate
from vllm_lmtp.training.data.rows import IGNORE
from vllm_lmtp.training.model.loss import pairs
from vllm_lmtp.training.model.markov import MarkovTerm
from vllm_lmtp.training.model.places import places
from vllm_lmtp.training.model.read_heads import TrainedHeads
from vllm_lmtp.training.model.recurrent import RecurrentTerm

TOPS = (1, 5, 10, 20)
BATCH = 16


@torch.no_grad()
def rows_accuracy(trained: TrainedHeads, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Accuracy of each head at its own offset, over every position that has a token there.

    Tokens outside the draft vocabulary count as missed.

    Returns:
        For each head {"head", "offset", "positions", "top1", "top5", "top10", "top20"}, and with a
        Markov term, given the true preceding token, "markov_top1" and so on.
    """
    heads, vocab, term = trained.heads, trained.vocab, trained.term
    schedule = LeapSchedule(len(heads), trained.stride)
    terms: list[tuple[str, MarkovTerm | None]] = [("", None)]
    if term is not None and not isinstance(term, RecurrentTerm):
        terms.append(("markov_", term))
    hits = torch.zeros(len(heads), len(terms), len(TOPS), dtype=torch.int64)
    counts = torch.zeros(len(heads), dtype=torch.int64)
    for hidden, labels, tokens in _batches(vocab, answers):
        for i in range(len(heads)):
            rows, truth, previous = pairs(hidden, labels, schedule.offset_of_head(i), tokens)
            counts[i] += len(truth)
            logits = heads[i](rows.to(heads[i].lm_head.weight.dtype))
            for column, (_, added) in enumerate(terms):
                if added is not None:
                    logits = logits + added.embedded(previous) @ added.output_of(i).T
                hits[i, column] += _hits(logits, truth)
    return [
        {"head": i, "offset": schedule.offset_of_head(i), "positions": int(counts[i])}
        | {
            key: share
            for column, (name, _) in enumerate(terms)
            for key, share in _shares(name, hits[i, column], counts[i]).items()
        }
        for i in range(len(heads))
    ]


@torch.no_grad()
def places_accuracy(trained: TrainedHeads, answers: Sequence[Answer]) -> dict[str, Any]:
    """Accuracy of each place of a draft with a recurrent term, the tokens before it being true.

    Returns:
        {"places": for each {"place", "positions", "top1", ...}}; nothing without such a term.
    """
    term = trained.term
    if not isinstance(term, RecurrentTerm):
        return {}
    hits = torch.zeros(len(trained.heads) * trained.stride, len(TOPS), dtype=torch.int64)
    counts = torch.zeros(len(hits), dtype=torch.int64)
    for hidden, labels, tokens in _batches(trained.vocab, answers):
        rows = hidden.to(term.start.dtype)
        for i, place in enumerate(
            places(trained.heads, term, trained.stride, rows, labels, tokens)
        ):
            logits = trained.heads[place.head].lm_head(place.rows)
            counts[i] += len(place.labels)
            hits[i] += _hits(logits + place.state @ term.output_of(place.head).T, place.labels)
    return {
        "places": [
            {"place": i, "positions": int(counts[i])} | _shares("", hits[i], counts[i])
            for i in range(len(hits))
        ]
    }


def _batches(
    vocab: DraftVocab, answers: Sequence[Answer]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Hidden states, labels and tokens (`kept_rows.collate`), the labels as draft ids.

    A token outside the vocabulary has a label that no head can name, yet one that counts.
    """
    known = vocab.draft_ids(unknown=len(vocab))
    for start in range(0, len(answers), BATCH):
        batch = collate(answers[start : start + BATCH])
        labels = torch.where(batch["labels"] == IGNORE, IGNORE, known[batch["labels"].clamp(min=0)])
        yield batch["hidden"], labels, batch["tokens"]


def _hits(logits: Tensor, truth: Tensor) -> Tensor:
    """int64 [len(TOPS)]: how many labels are among the best tokens."""
    found = logits.topk(min(max(TOPS), logits.shape[1])).indices == truth[:, None]
    return torch.stack([found[:, :n].sum() for n in TOPS])


def _shares(name: str, hits: Tensor, count: Tensor) -> dict[str, float]:
    shares = (hits / count.clamp(min=1)).tolist()
    return {f"{name}top{n}": round(share, 4) for n, share in zip(TOPS, shares, strict=True)}
