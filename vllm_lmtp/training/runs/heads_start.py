"""What a run on kept rows begins with: heads, draft vocabulary and term."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from vllm_lmtp.errors import refuse
from vllm_lmtp.training.data.draft_vocab import DraftVocab, choose, count_tokens
from vllm_lmtp.training.data.kept_rows import Answer
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.layout import output_matrix
from vllm_lmtp.training.model.markov import MarkovTerm
from vllm_lmtp.training.model.read_heads import TrainedHeads, read_trained
from vllm_lmtp.training.model.recurrent import RecurrentTerm
from vllm_lmtp.training.settings.heads import HeadsRun


def starting_point(
    run: HeadsRun, train: list[Answer], held: list[Answer], end: int | None
) -> TrainedHeads:
    """Heads that copy the backbone's output matrix, or those of `run.init`; and the term.

    Args:
        end: the token that ends an answer, which the draft vocabulary has in any case; None where
            the tokenizer states none.

    Raises:
        LMTPError: the heads of `run.init` are not those that the run states.
    """
    assert run.backbone is not None
    if run.init is not None:
        start = read_trained(Path(run.init))
        found = (len(start.heads), start.stride)
        if found != (run.heads.n_head, run.heads.skip_token):
            raise refuse(
                run.init,
                "n_head, skip_token",
                found=found,
                expected=f"{run.heads.n_head}, {run.heads.skip_token}, as the training file states",
                remedy="correct the file, or name other heads",
            )
    else:
        matrix = output_matrix(Path(run.backbone))
        vocab = _draft_vocab(run, len(matrix), train, held, end)
        heads = LeapHeads(run.heads.n_head, matrix[vocab.target_ids])
        start = TrainedHeads(heads, vocab, None, run.heads.skip_token)
    term = _new_term(run, start)
    _check_size(run, start if term is None else dataclasses.replace(start, term=term))
    return start if term is None else dataclasses.replace(start, term=term)


def _new_term(run: HeadsRun, start: TrainedHeads) -> MarkovTerm | None:
    """A term as the run wants it, unless `start` has one of its kind already."""
    config = run.term
    if config is None:
        return None
    n_head = None if config.shared else run.heads.n_head
    if run.recurrent is None:
        fitting = start.term is not None and not isinstance(start.term, RecurrentTerm)
        return None if fitting else MarkovTerm(start.vocab, config.rank, n_head)
    if isinstance(start.term, RecurrentTerm):
        return None
    term = RecurrentTerm(start.vocab, config.rank, n_head, start.heads[0].lm_head.in_features)
    if start.term is not None:
        here, there = start.term.output.shape, term.output.shape
        if here[:-1] == there[:-1] and here[-1] <= there[-1]:
            term.grow_from(start.term)
    return term


def _check_size(run: HeadsRun, start: TrainedHeads) -> None:
    """Refuse a term that `run.init` has already and the run states otherwise."""
    if run.term is None or start.term is None:
        return
    found = start.term.embed.shape[1], start.term.output.dim() == 2
    if found != (run.term.rank, run.term.shared):
        raise refuse(
            str(run.init),
            "rank, shared",
            found=found,
            expected=f"{(run.term.rank, run.term.shared)}, as the training file states",
            remedy="correct the file, or name other heads",
        )


def _draft_vocab(
    run: HeadsRun, vocab_size: int, train: list[Answer], held: list[Answer], end: int | None
) -> DraftVocab:
    config = run.draft_vocab
    if config is None:
        return DraftVocab(torch.arange(vocab_size), vocab_size)
    return choose(
        count_tokens((a.answer for a in train), vocab_size),
        count_tokens((a.answer for a in held), vocab_size),
        size=config.size,
        coverage=config.coverage,
        always=[] if end is None else [end],
    )
