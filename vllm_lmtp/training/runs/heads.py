"""Stage 1 on kept rows: leap heads, and their term, without running the backbone again.

The rows are those that vLLM fed to the LM head while the backbone answered (recorder.py), so that
training costs the heads' own products alone, for any number of runs over the same answers.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.whole import whole_folder, write_json
from vllm_lmtp.training.data.draft_vocab import DraftVocab, choose, count_tokens, coverage_of
from vllm_lmtp.training.data.kept_rows import Answer, collate, read_answers
from vllm_lmtp.training.data.records import split_held_out
from vllm_lmtp.training.data.rows import IGNORE
from vllm_lmtp.training.data.tokenizer import load_tokenizer
from vllm_lmtp.training.devices import in_bfloat16, is_main, world_size
from vllm_lmtp.training.judging.observed_drafts import acceptance
from vllm_lmtp.training.judging.rows_accuracy import places_accuracy, rows_accuracy
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.heads_folder import write_heads
from vllm_lmtp.training.model.layout import output_matrix
from vllm_lmtp.training.model.loss import Extras, stage1_loss
from vllm_lmtp.training.model.markov import MarkovTerm
from vllm_lmtp.training.model.read_heads import TrainedHeads, read_trained
from vllm_lmtp.training.model.recurrent import RecurrentTerm
from vllm_lmtp.training.resume import SETTINGS, must_be_as_begun
from vllm_lmtp.training.runs.report import loss_picture, model_log
from vllm_lmtp.training.runs.trainer import (
    PartsTrainer,
    last_checkpoint,
    loss_history,
    training_arguments,
)
from vllm_lmtp.training.settings.heads import HeadsRun

log = logging.getLogger(__name__)


class HeadsOnRows(nn.Module):
    """What the Trainer trains: heads and, where there is one, their term.

    matrix: [V, H], the backbone's output matrix, where its best tokens are learnt.
    """

    def __init__(self, start: TrainedHeads, run: HeadsRun, matrix: Tensor | None = None) -> None:
        super().__init__()
        self.heads, self.term = start.heads, start.term
        self.vocab, self.config_of_heads = start.vocab, run.heads
        self.decay = run.recurrent.decay if run.recurrent else 1.0
        self.register_buffer("matrix", matrix, persistent=False)
        self.recent: dict[str, list[float]] = defaultdict(list)
        for name, parameter in self.heads.named_parameters():
            frozen = {"all": False, "blocks": "lm_head" in name, "term": True}[run.train]
            parameter.requires_grad_(not frozen)

    def forward(self, hidden: Tensor, labels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """The stage-1 loss of a batch of `kept_rows.collate`."""
        config = self.config_of_heads
        if isinstance(self.matrix, Tensor):
            labels = best_labels(hidden, labels, self.matrix, config.logits_budget)
        loss, parts = stage1_loss(
            self.heads,
            hidden.to(self.heads[0].lm_head.weight.dtype),
            labels,
            config.skip_token,
            config.logits_budget,
            Extras(self.vocab, self.term, tokens, self.decay),
        )
        part = "place" if isinstance(self.term, RecurrentTerm) else "head"
        for index, value in enumerate(parts.tolist()):
            self.recent[f"loss_{part}_{index}"].append(value)
        return {"loss": loss}

    def parameter_groups(self, lr: float, lr_scale: float) -> list[dict[str, Any]]:
        """For the optimizer: the heads, and the term with its own learning rate."""
        groups = [{"params": [p for p in self.heads.parameters() if p.requires_grad], "lr": lr}]
        if self.term is not None:
            groups.append({"params": list(self.term.parameters()), "lr": lr * lr_scale})
        return [group for group in groups if group["params"]]


@torch.no_grad()
def best_labels(hidden: Tensor, labels: Tensor, matrix: Tensor, logits_budget: int) -> Tensor:
    """Labels of a batch with the backbone's best token in place of the one that was written.

    Args:
        hidden: [B, T, H]. labels: int64 [B, T + 1]; the row before a label predicts it.
        matrix: [V, H], the backbone's output matrix, in the dtype to compute in.
    """
    rows = hidden.flatten(0, 1).to(matrix.dtype)
    chunks = torch.split(rows, max(1, logits_budget // len(matrix)))
    best = torch.cat([(chunk @ matrix.T).argmax(dim=1) for chunk in chunks])
    by_place = torch.cat([labels[:, :1], best.view(hidden.shape[:2])], dim=1)
    return torch.where(labels == IGNORE, IGNORE, by_place)


def train_heads(run: HeadsRun, config_path: Path) -> dict[str, Any]:
    """Train and save to the run's `model` folder; resumes where an earlier run stopped.

    Returns:
        The training log, as written beside the weights; only the settings in other processes.

    Raises:
        LMTPError: backbone, data set or heads to go on from do not fit together.
    """
    assert run.backbone is not None
    started = time.time()
    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    output = Path(run.output)
    work = output / "work"
    must_be_as_begun(work / SETTINGS, run, begun=last_checkpoint(work) is not None)
    end = load_tokenizer(Path(run.backbone)).eos_token_id
    train, held = split_held_out(read_answers(Path(run.dataset), end), run.held_out)
    train = train[: run.limit]
    start = _starting_point(run, train, held, end)
    matrix = output_matrix(Path(run.backbone)) if run.learn == "best" else None
    if matrix is not None and in_bfloat16(run.optim.bf16):
        matrix = matrix.bfloat16()
    model = HeadsOnRows(start, run, matrix)
    log.info("%d answers, %d draft tokens", len(train), len(start.vocab))
    scale = 1.0 if run.term is None else run.term.lr_scale
    optimizer = torch.optim.AdamW(
        model.parameter_groups(run.optim.lr, scale),
        betas=(0.9, run.optim.beta2),
        weight_decay=run.optim.weight_decay,
    )
    trainer = PartsTrainer(
        model=model,
        args=training_arguments(
            run.optim,
            work,
            run.seed,
            rows=len(train),
            on_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=train,
        data_collator=collate,
        optimizers=(optimizer, None),
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    content = model_log(config_path, run)
    if not is_main():
        return content
    model = model.cpu()
    with whole_folder(output / "model") as folder:
        write_heads(
            folder,
            model.heads,
            run.heads,
            model.vocab,
            model.term,
            int8=run.int8,
            fields={"model_name": run.model_name},
            term_facts={
                "train_tokens": sum(len(a.answer) for a in train),
                "steps": run.optim.total_steps(len(train), world_size()),
                "trained_with": "heads" if run.train == "all" else f"train: {run.train}",
                "seed": run.seed,
            },
        )
        content |= _results(run, folder, train, held) | {
            "seconds": round(time.time() - started),
            "history": loss_history(trainer.state.log_history),
        }
        write_json(folder / "training_log.json", content)
        loss_picture(content, folder / "loss.png")
    return content


def _starting_point(
    run: HeadsRun, train: list[Answer], held: list[Answer], end: int
) -> TrainedHeads:
    """Heads that copy the backbone's output matrix, or those of `run.init`; and the term."""
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
    if start.term is not None and start.term.output.shape == term.output.shape:
        term.load_state_dict(start.term.state_dict(), strict=False)
    return term


def _draft_vocab(
    run: HeadsRun, vocab_size: int, train: list[Answer], held: list[Answer], end: int
) -> DraftVocab:
    config = run.draft_vocab
    if config is None:
        return DraftVocab(torch.arange(vocab_size), vocab_size)
    return choose(
        count_tokens((a.answer for a in train), vocab_size),
        count_tokens((a.answer for a in held), vocab_size),
        size=config.size,
        coverage=config.coverage,
        always=[end],
    )


def _results(
    run: HeadsRun, folder: Path, train: list[Answer], held: list[Answer]
) -> dict[str, Any]:
    """What the heads can do as they are saved, rounded."""
    saved = read_trained(folder)
    steps = run.optim.total_steps(len(train), world_size())
    counts = count_tokens((a.answer for a in held), saved.vocab.vocab_size)
    return {
        "own_text": {
            "train_texts": len(train),
            "train_tokens": sum(len(a.answer) for a in train),
        },
        "steps": steps,
        "epochs": round(steps * run.optim.step_rows(world_size()) / len(train), 2),
        "draft_vocab": {
            "size": len(saved.vocab),
            "held_out_coverage": round(coverage_of(saved.vocab, counts), 4),
        },
        "held_out": {
            "texts": len(held),
            "tokens": sum(len(a.answer) for a in held),
            "heads": rows_accuracy(saved, held),
            **places_accuracy(saved, held),
            "drafts": acceptance(read_checkpoint(folder), held),
        },
    }
