"""Stage 1: train leap heads on a frozen backbone's own texts (arXiv 2505.17505, section 3).

The backbone's weights are first rounded to bfloat16, as they are saved, so that the heads learn
the hidden states of the very model that will be served.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vllm_lmtp.formats.checkpoint import is_lmtp_config, read_config
from vllm_lmtp.formats.whole import whole_folder, write_json
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.data.records import pad_rows
from vllm_lmtp.training.data.texts import read_texts
from vllm_lmtp.training.data.tokenizer import load_tokenizer
from vllm_lmtp.training.devices import is_main, world_size
from vllm_lmtp.training.judging.evaluate import head_accuracy
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.layout import (
    load_backbone,
    round_to_bfloat16,
    write_stage1,
)
from vllm_lmtp.training.model.loss import stage1_loss
from vllm_lmtp.training.resume import SETTINGS, must_be_as_begun
from vllm_lmtp.training.runs.card import model_card
from vllm_lmtp.training.runs.report import loss_picture, model_log, story_samples
from vllm_lmtp.training.runs.trainer import (
    PartsTrainer,
    last_checkpoint,
    loss_history,
    training_arguments,
)
from vllm_lmtp.training.settings.stages import HeadsConfig, Stage1Run

log = logging.getLogger(__name__)
CALIBRATION_OFFSETS = 9


class HeadsOnFrozenBackbone(nn.Module):
    """What the Trainer trains: the heads are its only parameters, the backbone a fixed function."""

    def __init__(self, backbone: PreTrainedModel, config: HeadsConfig) -> None:
        super().__init__()
        self.heads = LeapHeads(config.n_head, backbone.get_output_embeddings().weight.detach())
        # In a tuple, so that it is no submodule: checkpoints of the run hold the heads alone.
        self._frozen = (backbone.requires_grad_(False).eval(),)
        self.config_of_heads = config
        self.recent: dict[str, list[Tensor]] = defaultdict(list)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HeadsOnFrozenBackbone:
        self._frozen[0]._apply(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The stage-1 loss of padded rows, int64 [B, T] each; see `loss.stage1_loss`."""
        with torch.no_grad():
            # No attention mask: padding is on the right, where causal attention never looks.
            hidden = self._frozen[0].model(input_ids=input_ids).last_hidden_state
        config = self.config_of_heads
        loss, of_heads = stage1_loss(
            self.heads, hidden, labels, config.skip_token, config.logits_budget
        )
        for index, value in enumerate(of_heads.unbind()):
            self.recent[f"loss_head_{index}"].append(value)
        return {"loss": loss}


def train_stage1(run: Stage1Run, config_path: Path) -> dict[str, Any]:
    """Sample the backbone's own texts, train the heads, save to the run's `model` folder.

    Every step is resumed where an earlier run of the same file stopped. Of several processes the
    main one samples, evaluates and writes.

    Returns:
        The training log, as written beside the weights; only the settings in other processes.
    """
    started = time.monotonic()
    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    output, folder = Path(run.output), Path(run.backbone)
    work = output / "work"
    must_be_as_begun(work / SETTINGS, run, begun=last_checkpoint(work) is not None)
    on_cpu = not torch.cuda.is_available()
    if is_lmtp_config(read_config(folder)):
        log.warning("%s has leap heads already; only its backbone is used", run.backbone)
    tokenizer = load_tokenizer(folder)
    schedule = LeapSchedule(run.heads.n_head, run.heads.skip_token)
    rows, held, counts = read_texts(run, folder, tokenizer, schedule)
    log.info("%d texts, %d tokens", len(rows), counts["train_tokens"])
    sampled = time.monotonic()

    # On a GPU the frozen weights stay as small as they are saved; there is no other gain in it.
    narrow = run.optim.bf16 and not on_cpu
    backbone = load_backbone(folder, torch.bfloat16 if narrow else torch.float32)
    round_to_bfloat16(backbone)
    torch.manual_seed(run.seed)
    model = HeadsOnFrozenBackbone(backbone, run.heads)
    pad_id = tokenizer.pad_token_id or 0  # masked in the labels and seen by no other position
    trainer = PartsTrainer(
        model=model,
        args=training_arguments(run.optim, work, run.seed, rows=len(rows), on_cpu=on_cpu),
        train_dataset=rows,
        data_collator=lambda part: pad_rows(part, pad_id),
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    trained = time.monotonic()
    content = model_log(config_path, run)
    if not is_main():
        return content

    # Everything below describes the heads as they are saved, rounded to bfloat16.
    model = model.cpu()
    backbone = backbone.float()
    round_to_bfloat16(model.heads)
    steps = run.optim.total_steps(len(rows), world_size())
    content |= {
        "data": counts,
        "steps": steps,
        "epochs": round(steps * run.optim.step_rows(world_size()) / len(rows), 2),
        "processes": world_size(),
        "head_parameters": sum(p.numel() for p in model.heads.parameters()),
        "held_out": {"texts": len(held), "tokens": sum(len(row.tokens) for row in held)}
        | head_accuracy(
            backbone, model.heads, schedule.stride, [r.tokens for r in held], CALIBRATION_OFFSETS
        ),
        "seconds": {
            "sampling": round(sampled - started),
            "training": round(trained - sampled),
            "evaluation": round(time.monotonic() - trained),
        },
        "history": loss_history(trainer.state.log_history),
    }
    if run.own_text is not None:
        content["samples"] = story_samples(backbone, tokenizer, run.seed)
    content = _with_backbone_log(content, Path(run.backbone))
    with whole_folder(output / "model") as folder:
        write_stage1(folder, backbone, model.heads, run.heads, tokenizer, run.model_name)
        write_json(folder / "training_log.json", content)
        loss_picture(content, folder / "loss.png")
        (folder / "README.md").write_text(model_card(content), encoding="utf-8")
    return content


def _with_backbone_log(content: dict[str, Any], backbone: Path) -> dict[str, Any]:
    """Carry the backbone's own log along, so that the folder tells the whole story. A stage-1
    folder whose backbone was made elsewhere has none."""
    import json

    path = backbone / "training_log.json"
    if not path.is_file():
        return content
    before = json.loads(path.read_text(encoding="utf-8"))
    found = before.get("backbone", before)
    told = {"corpus", "parameters", "held_out_loss"} <= found.keys()
    return content | {"backbone": found} if told else content
