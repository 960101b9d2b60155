"""Stage 2: adapt backbone and heads together with LoRA (arXiv 2505.17505, section 3).

The next-token loss keeps the model what it is, a share of the heads' losses makes its hidden states
easier to look ahead from. Only the adapter is trained and saved, in the layout of the reference's;
`vllm-lmtp merge` makes a folder of it and stage 1 that can be served.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_checkpoint
from vllm_lmtp.formats.whole import whole_folder, write_json
from vllm_lmtp.training.data.records import Row, pad_rows
from vllm_lmtp.training.data.texts import read_texts
from vllm_lmtp.training.data.tokenizer import load_tokenizer
from vllm_lmtp.training.devices import in_bfloat16, is_main, world_size
from vllm_lmtp.training.judging.evaluate import head_accuracy, next_token_loss
from vllm_lmtp.training.model.leap_model import attach_lora, load_leap_model, save_adapter
from vllm_lmtp.training.resume import SETTINGS, must_be_as_begun
from vllm_lmtp.training.runs.adapter_card import adapter_card
from vllm_lmtp.training.runs.report import loss_picture, model_log
from vllm_lmtp.training.runs.trainer import (
    PartsTrainer,
    last_checkpoint,
    loss_history,
    training_arguments,
)
from vllm_lmtp.training.settings.stages import Stage2Run

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger(__name__)
ADAPTER = "adapter"
CALIBRATION_OFFSETS = 9


def train_stage2(run: Stage2Run, stage1: Path, config_path: Path) -> dict[str, Any]:
    """Train the adapter and save it to the run's `adapter` folder.

    Resumes from the newest Trainer checkpoint of an interrupted run. Of several processes the main
    one samples, evaluates and writes.

    Args:
        stage1: the local folder of `run.stage1`.

    Returns:
        The training log, as written beside the adapter; only the settings in other processes.

    Raises:
        LMTPError: stage 1, the data set or the sampled texts are at fault.
    """
    started = time.monotonic()
    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    output = Path(run.output)
    work = output / "work"
    must_be_as_begun(work / SETTINGS, run, begun=last_checkpoint(work) is not None)
    checkpoint = _stage1_heads(stage1)
    tokenizer = load_tokenizer(stage1)
    train, held, counts = read_texts(run, stage1, tokenizer, checkpoint.schedule)
    log.info("%d texts, %d tokens", len(train), counts["train_tokens"])
    prepared = time.monotonic()

    # What is frozen may be as small as it is on disk; the adapter is float32 either way.
    dtype = torch.bfloat16 if in_bfloat16(run.optim.bf16) else torch.float32
    model = load_leap_model(checkpoint, run.head_weight, run.logits_budget, dtype)
    adapted = attach_lora(model, run.lora, run.stage1)
    pad_id = tokenizer.pad_token_id or 0  # masked in the labels and seen by no other position
    trainer = PartsTrainer(
        model=adapted,
        args=training_arguments(
            run.optim,
            work,
            run.seed,
            rows=len(train),
            on_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=train,
        data_collator=lambda rows: pad_rows(rows, pad_id),
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    trained = time.monotonic()
    content = model_log(config_path, run)
    if not is_main():
        return content

    steps = run.optim.total_steps(len(train), world_size())
    content |= {
        "data": counts,
        "stride": checkpoint.schedule.stride,
        "steps": steps,
        "epochs": round(steps * run.optim.step_rows(world_size()) / len(train), 2),
        "processes": world_size(),
        "adapter_parameters": sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        "held_out": _evaluate(adapted, held),
        "history": loss_history(trainer.state.log_history),
    }
    content["seconds"] = {
        "data": round(prepared - started),
        "training": round(trained - prepared),
        "evaluation": round(time.monotonic() - trained),
    }
    with whole_folder(output / ADAPTER) as folder:
        save_adapter(adapted, folder)
        write_json(folder / "training_log.json", content)
        loss_picture(content, folder / "loss.png")
        (folder / "README.md").write_text(adapter_card(content), encoding="utf-8")
    return content


def _stage1_heads(folder: Path) -> HeadsCheckpoint:
    checkpoint = read_checkpoint(folder)
    if checkpoint.stage1:
        return checkpoint
    raise refuse(
        str(folder),
        "layout",
        found="heads without a backbone",
        expected="a stage-1 folder, which holds both",
        remedy="make one with vllm-lmtp convert --to stage1 HEADS OUT --target BASE",
    )


def _evaluate(adapted: PeftModel, rows: list[Row]) -> dict[str, Any]:
    """Losses and accuracies on held-out rows, of stage 1 and with the adapter."""
    adapted.eval()
    model = adapted.get_base_model()
    with adapted.disable_adapter():
        before = _measure(model, rows)
    after = _measure(model, rows)
    counts = {"texts": len(rows), "tokens": sum(len(row.tokens) for row in rows)}
    return counts | {"stage1": before, "stage2": after}


def _measure(model: Any, rows: list[Row]) -> dict[str, Any]:
    accuracy = head_accuracy(
        model, model.heads, model.stride, [row.tokens for row in rows], CALIBRATION_OFFSETS
    )
    return {"next_token_loss": round(next_token_loss(model, rows), 4)} | accuracy
