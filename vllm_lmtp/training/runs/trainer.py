"""The one way this package uses transformers.Trainer: arguments, resuming, and what it logs."""

from __future__ import annotations

import inspect
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from vllm_lmtp.training.devices import in_bfloat16, world_size
from vllm_lmtp.training.settings.stages import OptimConfig

log = logging.getLogger(__name__)
SAY_SECONDS = 10.0


def training_arguments(
    optim: OptimConfig,
    work: Path,
    seed: int,
    *,
    rows: int,
    on_cpu: bool,
    measured: str | None = None,
    report_to: Sequence[str] = (),
) -> TrainingArguments:
    """Arguments for one run over `rows` rows.

    Args:
        measured: what is measured before each save; the state with the most of it is kept.
        report_to: outside services, by transformers' names; none where left out.
    """
    best: dict[str, Any] = {}
    if measured is not None:
        best = {
            "eval_strategy": "steps",
            "eval_steps": optim.save_every,
            "load_best_model_at_end": True,
            "metric_for_best_model": f"eval_{measured}",
            "greater_is_better": True,
        }
    steps = optim.total_steps(rows, world_size())
    names = inspect.signature(TrainingArguments).parameters
    # transformers 5 reads a warmup below 1 as a share of the steps; before, that was warmup_ratio.
    warmup = "warmup_ratio" if "warmup_ratio" in names else "warmup_steps"
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=optim.batch_rows,
        gradient_accumulation_steps=optim.accumulate,
        learning_rate=optim.lr,
        lr_scheduler_type="cosine",
        weight_decay=optim.weight_decay,
        adam_beta2=optim.beta2,
        max_grad_norm=optim.grad_clip,
        bf16=in_bfloat16(optim.bf16),
        torch_compile=optim.compile,
        logging_steps=max(1, steps // 100),
        save_steps=optim.save_every,
        save_total_limit=2,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        report_to=list(report_to),
        disable_tqdm=True,
        use_cpu=on_cpu,
        # Every process uses every parameter (loss.py), and looking for unused ones costs time.
        ddp_find_unused_parameters=False,
        # Looking for a loss that is no number would wait for the device at each step.
        logging_nan_inf_filter=False,
        seed=seed,
        # No buffer ever changes.
        ddp_broadcast_buffers=False,
        **{warmup: optim.warmup},
        **best,
    )
    # One process trains on one device: several threads would share what a model notes. Several
    # devices are for `accelerate launch`.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


class PartsTrainer(Trainer):
    """A Trainer that logs the parts of the loss, which its model notes by name in `recent`.

    Args:
        measure: what `training_arguments` has measured, by name; asked before each save.
    """

    def __init__(
        self, *args: Any, measure: Callable[[], dict[str, float]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.control: TrainerControl
        self.remove_callback(PrinterCallback)  # its dictionaries tell nobody how long it takes
        self.add_callback(_Progress())
        if measure is not None:
            self.measure = measure
            self.add_callback(_MeasuredAtEnd())

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the mean of each part since the last log."""
        recent = self.model.recent
        if "loss" in logs:
            # On a device nothing is waited for before.
            logs |= {name: float(torch.stack(v).mean()) for name, v in recent.items() if v}
            recent.clear()
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """What is measured, instead of a loss over the data set for evaluation."""
        metrics = {f"eval_{name}": value for name, value in self.measure().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class _Progress(TrainerCallback):
    """Says how far it is and how long it will take."""

    def __init__(self) -> None:
        self._begun, self._first, self._said = 0.0, 0, 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        self._begun, self._first = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        step, logs, now = state.global_step, logs or {}, time.monotonic()
        if "eval_length" in logs:
            log.info("step %d: %.3f tokens a step", step, logs["eval_length"])
        elif "loss" in logs and now - self._said > SAY_SECONDS and step > self._first:
            self._said = now
            left = (now - self._begun) / (step - self._first) * (state.max_steps - step)
            log.info(
                "step %d of %d, loss %.3f, about %.1f min left",
                step,
                state.max_steps,
                logs["loss"],
                left / 60,
            )


class _MeasuredAtEnd(TrainerCallback):
    """The last state is a candidate, too, whatever its number."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


def last_checkpoint(work: Path) -> str | None:
    """The newest complete Trainer checkpoint under `work`, to resume from.

    A run that was killed while saving leaves a folder without trainer_state.json, which is written
    last, and a full disk one with a part of it; such a folder is passed over.
    """
    found = [
        (int(path.name.split("-")[1]), path)
        for path in work.glob("checkpoint-*")
        if path.name.split("-")[1].isdigit() and _is_whole(path / "trainer_state.json")
    ]
    return str(max(found)[1]) if found else None


def _is_whole(state: Path) -> bool:
    try:
        return isinstance(json.loads(state.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def loss_history(log_history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The step, the losses and the learning rate of each logged step, rounded for a file."""
    return [
        {
            k: round(float(v), 6)
            for k, v in entry.items()
            if k in ("step", "learning_rate") or "loss" in k or "length" in k
        }
        for entry in log_history
        if "loss" in entry or "eval_length" in entry
    ]
