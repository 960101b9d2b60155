"""The one way this package uses transformers.Trainer: arguments, resuming, and what it logs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from vllm_lmtp.training.devices import in_bfloat16, world_size
from vllm_lmtp.training.settings.stages import OptimConfig


def training_arguments(
    optim: OptimConfig, work: Path, seed: int, *, rows: int, on_cpu: bool, **more: Any
) -> TrainingArguments:
    """Arguments for one run over `rows` rows; nothing is reported to an outside service."""
    steps = optim.total_steps(rows, world_size())
    names = inspect.signature(TrainingArguments).parameters
    # transformers 5 reads a warmup below 1 as a share of the steps; before, that was warmup_ratio.
    warmup = "warmup_ratio" if "warmup_ratio" in names else "warmup_steps"
    return TrainingArguments(
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
        report_to=[],
        disable_tqdm=True,
        use_cpu=on_cpu,
        # Every process uses every parameter (loss.py), and looking for unused ones costs time.
        ddp_find_unused_parameters=False,
        seed=seed,
        **{warmup: optim.warmup},
        **more,
    )


class PartsTrainer(Trainer):
    """A Trainer that logs the parts of the loss, which its model notes by name in `recent`."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the mean of each part since the last log."""
        recent = self.model.recent
        if "loss" in logs:
            logs |= {name: sum(v) / len(v) for name, v in recent.items() if v}
            recent.clear()
        super().log(logs, *args, **kwargs)


def last_checkpoint(work: Path) -> str | None:
    """The newest complete Trainer checkpoint under `work`, to resume from.

    A run that was killed while saving leaves a folder without trainer_state.json, which is written
    last; such a folder is passed over.
    """
    found = [
        (int(path.name.split("-")[1]), path)
        for path in work.glob("checkpoint-*")
        if path.name.split("-")[1].isdigit() and (path / "trainer_state.json").is_file()
    ]
    return str(max(found)[1]) if found else None


def loss_history(log_history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The step, the losses and the learning rate of each logged step, rounded for a file."""
    return [
        {
            k: round(float(v), 6)
            for k, v in entry.items()
            if k in ("step", "learning_rate") or "loss" in k
        }
        for entry in log_history
        if "loss" in entry
    ]
