"""Stage 1 on kept rows: leap heads, and their Markov term, without running the backbone again.

The rows are those that vLLM fed to the LM head while the backbone answered (recorder.py), so that
training costs the heads' own products alone, for any number of runs over the same answers.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vllm_lmtp.errors import refuse
from vllm_lmtp.training.config import HeadsConfig
from vllm_lmtp.training.data import split_held_out
from vllm_lmtp.training.devices import is_main, world_size
from vllm_lmtp.training.draft_vocab import DraftVocab, choose, count_tokens, coverage_of
from vllm_lmtp.training.heads import LeapHeads
from vllm_lmtp.training.heads_config import HeadsRun
from vllm_lmtp.training.heads_folder import write_heads
from vllm_lmtp.training.kept_rows import Answer, collate, read_answers
from vllm_lmtp.training.layout import output_matrix
from vllm_lmtp.training.loss import Extras, stage1_loss
from vllm_lmtp.training.markov import MarkovTerm
from vllm_lmtp.training.read_heads import TrainedHeads, read_trained
from vllm_lmtp.training.report import loss_picture, model_log
from vllm_lmtp.training.rows_accuracy import rows_accuracy
from vllm_lmtp.training.save import whole_folder, write_json
from vllm_lmtp.training.tokenizer import load_tokenizer
from vllm_lmtp.training.trainer import (
    PartsTrainer,
    last_checkpoint,
    loss_history,
    training_arguments,
)

log = logging.getLogger(__name__)


class HeadsOnRows(nn.Module):
    """What the Trainer trains: heads and, where there is one, their Markov term."""

    def __init__(
        self,
        heads: LeapHeads,
        vocab: DraftVocab,
        markov: MarkovTerm | None,
        config: HeadsConfig,
        train: str,
    ) -> None:
        super().__init__()
        self.heads, self.markov = heads, markov
        self.vocab, self.config_of_heads = vocab, config
        self.recent: dict[str, list[float]] = defaultdict(list)
        for name, parameter in heads.named_parameters():
            frozen = {"all": False, "blocks": "lm_head" in name, "term": True}[train]
            parameter.requires_grad_(not frozen)

    def forward(self, hidden: Tensor, labels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """The stage-1 loss of a batch of `kept_rows.collate`."""
        config = self.config_of_heads
        loss, of_heads = stage1_loss(
            self.heads,
            hidden.to(self.heads[0].lm_head.weight.dtype),
            labels,
            config.skip_token,
            config.logits_budget,
            Extras(self.vocab, self.markov, tokens),
        )
        for index, value in enumerate(of_heads.tolist()):
            self.recent[f"loss_head_{index}"].append(value)
        return {"loss": loss}

    def parameter_groups(self, lr: float, lr_scale: float) -> list[dict[str, Any]]:
        """For the optimizer: the heads, and the term with its own learning rate."""
        groups = [{"params": [p for p in self.heads.parameters() if p.requires_grad], "lr": lr}]
        if self.markov is not None:
            groups.append({"params": list(self.markov.parameters()), "lr": lr * lr_scale})
        return [group for group in groups if group["params"]]


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
    end = load_tokenizer(Path(run.backbone)).eos_token_id
    train, held = split_held_out(read_answers(Path(run.dataset), end), run.held_out)
    train = train[: run.limit]
    start = _starting_point(run, train, held, end)
    model = HeadsOnRows(start.heads, start.vocab, start.markov, run.heads, run.train)
    log.info("%d answers, %d draft tokens", len(train), len(start.vocab))
    scale = 1.0 if run.markov is None else run.markov.lr_scale
    optimizer = torch.optim.AdamW(
        model.parameter_groups(run.optim.lr, scale),
        betas=(0.9, run.optim.beta2),
        weight_decay=run.optim.weight_decay,
    )
    trainer = PartsTrainer(
        model=model,
        args=training_arguments(
            run.optim,
            output / "work",
            run.seed,
            rows=len(train),
            on_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=train,
        data_collator=collate,
        optimizers=(optimizer, None),
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(output / "work"))
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
            model.markov,
            int8=run.int8,
            fields={"model_name": run.model_name},
            term_facts={
                "train_tokens": sum(len(a.answer) for a in train),
                "steps": run.optim.total_steps(len(train), world_size()),
                "trained_with": "heads" if run.train == "all" else f"train: {run.train}",
                "seed": run.seed,
            },
        )
        saved = read_trained(folder)
        content |= _results(run, saved, train, held) | {
            "seconds": round(time.time() - started),
            "history": loss_history(trainer.state.log_history),
        }
        write_json(folder / "training_log.json", content)
        loss_picture(content, folder / "loss.png")
    return content


def _starting_point(
    run: HeadsRun, train: list[Answer], held: list[Answer], end: int
) -> TrainedHeads:
    """Heads that copy the backbone's output matrix, or those of `run.init`; and a new term."""
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
    if run.markov is not None and start.markov is None:
        n_head = None if run.markov.shared else run.heads.n_head
        term = MarkovTerm(start.vocab, run.markov.rank, n_head)
        start = TrainedHeads(start.heads, start.vocab, term, start.stride)
    return start


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
    run: HeadsRun, saved: TrainedHeads, train: list[Answer], held: list[Answer]
) -> dict[str, Any]:
    """What the heads can do as they are saved, rounded."""
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
            "heads": rows_accuracy(saved.heads, saved.stride, saved.vocab, saved.markov, held),
        },
    }
