"""Backbone and heads as one module under the names of a stage-1 file, with the stage-2 loss.

An adapter of this module so has the tensor names of the reference's adapters.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vllm_lmtp.errors import Refusal, raise_refusals
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, HeadsCheckpoint
from vllm_lmtp.formats.files import read_tensor
from vllm_lmtp.formats.tensors import HEADS_PREFIX
from vllm_lmtp.formats.unmerged import ADAPTER_CONFIG
from vllm_lmtp.formats.whole import write_json
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.layout import load_backbone
from vllm_lmtp.training.model.loss import stage2_loss

if TYPE_CHECKING:
    from peft import LoraConfig as PeftLora
    from peft import PeftModel

    from vllm_lmtp.training.settings.stages import LoraConfig

# The backbone's seven projections and the heads' own; never an output matrix.
TARGETS = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
    "l_proj",
)


class LeapModel(nn.Module):
    """A backbone and its leap heads.

    Args:
        backbone: its decoder and output matrix are taken over, not copied.
        stride: of the heads. head_weight, logits_budget: as in `loss.stage2_loss`.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        heads: LeapHeads,
        stride: int,
        head_weight: float,
        logits_budget: int,
    ) -> None:
        super().__init__()
        self.config = backbone.config
        self.name_or_path: str = backbone.config._name_or_path
        self.model: nn.Module = backbone.model
        self.lm_head = cast(nn.Linear, backbone.get_output_embeddings())
        self.heads = heads
        self.stride = stride
        self.head_weight = head_weight
        self.logits_budget = logits_budget
        self.recent: dict[str, list[Tensor]] = defaultdict(list)

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """Final-norm hidden states [B, T, H] of rows int64 [B, T], padded on the right."""
        # No attention mask: causal attention never looks at the padding.
        return cast(Tensor, self.model(input_ids=input_ids, use_cache=False).last_hidden_state)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The stage-2 loss of padded rows, int64 [B, T] each; its parts go to `recent`."""
        loss, parts = stage2_loss(
            self.lm_head,
            self.heads,
            self.hidden_states(input_ids),
            labels,
            self.stride,
            self.head_weight,
            self.logits_budget,
        )
        names = ["loss_next_token", *(f"loss_head_{i}" for i in range(len(self.heads)))]
        for name, value in zip(names, parts.unbind(), strict=True):
            self.recent[name].append(value)
        return {"loss": loss}


def load_leap_model(
    checkpoint: HeadsCheckpoint, head_weight: float, logits_budget: int, dtype: torch.dtype
) -> LeapModel:
    """The model of a stage-1 folder, all weights in `dtype`.

    Raises:
        LMTPError: a folder without a backbone, heads of a kind that stage 2 does not train, or
            weights that cannot be loaded.
    """
    backbone = load_backbone(checkpoint.path, dtype)
    matrix = backbone.get_output_embeddings().weight.detach()
    raise_refusals(_unfit(checkpoint, tuple(matrix.shape)))
    heads = LeapHeads(checkpoint.schedule.n_heads, matrix).to(dtype)
    heads.load_state_dict(
        {
            name.removeprefix(HEADS_PREFIX): read_tensor(checkpoint.tensors[name].file, name)
            for name in (f"{HEADS_PREFIX}{own}" for own in heads.state_dict())
        }
    )
    stride = checkpoint.schedule.stride
    return LeapModel(backbone, heads, stride, head_weight, logits_budget)


def attach_lora(model: LeapModel, lora: LoraConfig, base: str) -> PeftModel:
    """Freeze `model` and put LoRA adapters, float32, on everything that TARGETS names.

    Args:
        base: what the adapter names as its base: the stage-1 folder, as the user wrote it.
    """
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model

    config: PeftLora = PeftLora(
        r=lora.r,
        lora_alpha=cast(int, int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=list(TARGETS),
        bias="none",
        base_model_name_or_path=base,
    )
    # peft takes the base's name from the model where it has one.
    model.name_or_path = base
    return get_peft_model(model, config)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors to an empty folder."""
    # Without the last argument peft asks the hub about the base's vocabulary.
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    path = folder / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    # The same bytes from every run, and no class of this package, which loaders would look for.
    write_json(
        path, config | {"auto_mapping": None, "target_modules": sorted(config["target_modules"])}
    )


def _unfit(checkpoint: HeadsCheckpoint, shape: tuple[int, ...]) -> list[Refusal]:
    """What stage 2 does not train."""
    folder = checkpoint.path
    faults = []
    if checkpoint.num_layers > 1:
        found, expected = str(checkpoint.num_layers), "1, which is all that the reference trains"
        remedy = "train stage 1 with one block a head"
        faults.append(
            Refusal(str(folder / CONFIG_FILE), "head_num_layers", found, expected, remedy)
        )
    for index in range(checkpoint.schedule.n_heads):
        info = checkpoint.lm_head(index)
        if info.shape != shape or info.dtype not in ("BF16", "F16", "F32"):
            found = f"{info.dtype} {list(info.shape)}"
            expected = f"a float matrix {list(shape)}, as the backbone's: stage 2 trains heads over"
            remedy = "train stage 1 without a draft vocabulary, and make it smaller after stage 2"
            name = f"heads.heads.{index}.lm_head.weight"
            faults.append(Refusal(str(info.file), name, found, f"{expected} all tokens", remedy))
    return faults
