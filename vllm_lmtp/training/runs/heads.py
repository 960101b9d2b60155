"""Stage 1 on kept rows: leap heads, and their term, without running the backbone again.

The rows are those that vLLM fed to the LM head while the backbone answered (recorder.py), so that
training costs the heads' own products alone, for any number of runs over the same answers. What is
saved is the state with the most tokens a step on held-out answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.scorer_tensors import TRAINED_WITH, WITH_HEADS
from vllm_lmtp.formats.speculators import stated_target
from vllm_lmtp.formats.whole import whole_folder, write_json
from vllm_lmtp.training.data.draft_vocab import DraftVocab, count_tokens, coverage_of
from vllm_lmtp.training.data.held_answers import spread
from vllm_lmtp.training.data.kept_rows import Answer, read_answers
from vllm_lmtp.training.data.positions import Positions, as_it_is
from vllm_lmtp.training.data.records import split_held_out
from vllm_lmtp.training.data.tokenizer import load_tokenizer
from vllm_lmtp.training.devices import in_bfloat16, is_main, own_device, world_size
from vllm_lmtp.training.judging.observed_drafts import acceptance
from vllm_lmtp.training.judging.rows_accuracy import rows_accuracy
from vllm_lmtp.training.judging.tokens_a_step import HeldAnswers
from vllm_lmtp.training.model.heads_folder import write_heads
from vllm_lmtp.training.model.heads_on_rows import HeadsOnRows
from vllm_lmtp.training.model.layout import output_matrix
from vllm_lmtp.training.model.read_heads import read_trained
from vllm_lmtp.training.resume import SETTINGS, must_be_as_begun
from vllm_lmtp.training.runs.heads_start import starting_point
from vllm_lmtp.training.runs.report import loss_picture, model_log
from vllm_lmtp.training.runs.trainer import (
    PartsTrainer,
    last_checkpoint,
    loss_history,
    training_arguments,
)
from vllm_lmtp.training.settings.heads import HeadsRun

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run before its first step: the model, its batches, and answers to learn from and to hold
    out, some of which tell how good a state is."""

    model: HeadsOnRows
    positions: Positions
    train: list[Answer]
    held: list[Answer]
    measured: HeldAnswers

    def optimizer(self, run: HeadsRun) -> torch.optim.Optimizer:
        """A new one, for the run's rates."""
        return torch.optim.AdamW(
            self.model.parameter_groups(
                run.optim.lr, 1.0 if run.term is None else run.term.lr_scale
            ),
            betas=(0.9, run.optim.beta2),
            weight_decay=run.optim.weight_decay,
            fused=True,
        )

    def lengths(self) -> dict[str, float]:
        """Tokens a step of the state, for each temperature of the held-out answers, and on mean."""
        found = self.measured.measure(self.model.trained())
        means = {f"length_{t:g}": m["length"] for t, m in found.items()}
        return means | {"length": sum(means.values()) / max(1, len(means))}


def prepare(run: HeadsRun, device: str) -> Prepared:
    """Read what a run learns from, and make what it starts with; the same for the same run.

    Raises:
        LMTPError: backbone, data set or heads to go on from do not fit together.
    """
    assert run.backbone is not None
    torch.manual_seed(run.seed)
    end = load_tokenizer(Path(run.backbone)).eos_token_id
    answers = read_answers(Path(run.dataset), end)
    train, held = split_held_out(answers, run.held_out, lambda answer: answer.asked)
    train = train[: run.limit]
    start = starting_point(run, train, held, end)
    model = HeadsOnRows(start, run, _teacher(run, start.vocab))
    schedule = model.loss.schedule
    positions = Positions(
        train, schedule.stride - 1, model.loss.rows_after, schedule.max_drafts, device
    )
    measured = HeldAnswers(spread(held, run.measured_tokens), schedule, device)
    return Prepared(model, positions, train, held, measured)


def train_heads(run: HeadsRun, config_path: Path) -> dict[str, Any]:
    """Train and save to the run's `model` folder; resumes where an earlier run stopped.

    Returns:
        The training log, as written beside the weights; only the settings in other processes.

    Raises:
        LMTPError: backbone, data set or heads to go on from do not fit together.
    """
    started = time.monotonic()
    torch.set_num_threads(run.threads)
    output, device = Path(run.output), own_device()
    work = output / "work"
    must_be_as_begun(work / SETTINGS, run, begun=last_checkpoint(work) is not None)
    prepared = prepare(run, device)
    model, positions = prepared.model, prepared.positions
    train, held = prepared.train, prepared.held
    log.info(
        "%d answers, %d positions, %d draft tokens", len(train), len(positions), len(model.vocab)
    )
    trainer = PartsTrainer(
        model=model,
        args=training_arguments(
            run.optim,
            work,
            run.seed,
            rows=len(positions),
            on_cpu=device == "cpu",
            measured="length",
            report_to=run.report_to,
        ),
        train_dataset=positions,
        eval_dataset=positions,
        data_collator=as_it_is,
        optimizers=(prepared.optimizer(run), None),
        measure=prepared.lengths,
    )
    assert run.backbone is not None
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    content = model_log(config_path, run)
    if not is_main():
        return content
    model = model.cpu()
    steps = trainer.state.max_steps
    with whole_folder(output / "model") as folder:
        write_heads(
            folder,
            model.heads,
            run.heads,
            model.vocab,
            model.term,
            int8=run.int8,
            fields={"model_name": run.model_name}
            | stated_target(Path(run.backbone), output / "model", model.loss.schedule),
            term_facts={
                "train_tokens": sum(len(a.answer) for a in train),
                "steps": steps,
                TRAINED_WITH: WITH_HEADS if run.train == "all" else f"train: {run.train}",
                "seed": run.seed,
            },
        )
        content |= {
            "own_text": {
                "train_texts": len(train),
                "train_tokens": sum(len(a.answer) for a in train),
                "positions": len(positions),
            },
            "steps": steps,
            "epochs": round(steps * run.optim.step_rows(world_size()) / len(positions), 2),
            "best_step": trainer.state.best_global_step or steps,
            **_held_out(folder, held),
            "seconds": round(time.monotonic() - started),
            "history": loss_history(trainer.state.log_history),
        }
        write_json(folder / "training_log.json", content)
        loss_picture(content, folder / "loss.png")
    return content


def _teacher(run: HeadsRun, vocab: DraftVocab) -> Tensor | None:
    """The backbone's output matrix over the draft vocabulary, where the loss asks for it."""
    assert run.backbone is not None
    if not run.loss.soft and run.learn != "best":
        return None
    matrix = output_matrix(Path(run.backbone))[vocab.target_ids]
    return matrix.bfloat16() if in_bfloat16(run.optim.bf16) else matrix.float()


def _held_out(folder: Path, held: Sequence[Answer]) -> dict[str, Any]:
    """What the heads can do as they are saved, rounded."""
    saved = read_trained(folder)
    counts = count_tokens((a.answer for a in held), saved.vocab.vocab_size)
    return {
        "draft_vocab": {
            "size": len(saved.vocab),
            "held_out_coverage": round(coverage_of(saved.vocab, counts), 4),
        },
        "held_out": {
            "texts": len(held),
            "tokens": sum(len(a.answer) for a in held),
            **rows_accuracy(saved, held),
            "drafts": acceptance(read_checkpoint(folder), held),
        },
    }
