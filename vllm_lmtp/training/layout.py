"""The reference's stage-1 layout: backbone and heads in one folder (docs/checkpoints.md).

Backbone tensors keep their Hugging Face names; `lm_head.weight` is written even when it is tied to
the embeddings, as the reference does; heads are `heads.heads.<i>.*`. All tensors are bfloat16.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from vllm_lmtp.checkpoint import ARCHITECTURE, CONFIG_FILE, HEAD_TYPE
from vllm_lmtp.training.config import HeadsConfig
from vllm_lmtp.training.heads import LeapHeads
from vllm_lmtp.training.save import write_json
from vllm_lmtp.training.tokenizer import save_tokenizer

WEIGHTS_FILE = "model.safetensors"
# Where the checkpoint lay on the machine that trained it is of no use to anyone else, and the
# Trainer switches the cache off for its own sake only.
_DROPPED_KEYS = ("_name_or_path", "use_cache")


def load_backbone(folder: Path) -> PreTrainedModel:
    """The backbone of a folder in float32, in evaluation mode; `heads.*` in it are dropped."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, trust_remote_code=False
    )
    return model.eval()


def output_matrix(folder: Path) -> Tensor:
    """The output matrix [V, H] of a folder's model, float32; the model itself is let go."""
    return load_backbone(folder).get_output_embeddings().weight.detach().clone()


@torch.no_grad()
def round_to_bfloat16(module: nn.Module) -> None:
    """Round every parameter to bfloat16 in place, keeping its dtype, and leave buffers alone."""
    for parameter in module.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))


def stage1_tensors(backbone: PreTrainedModel, heads: LeapHeads) -> dict[str, Tensor]:
    """Every tensor of a stage-1 file by its name on disk, bfloat16, none sharing memory."""
    tensors = dict(backbone.state_dict())
    tensors["lm_head.weight"] = backbone.get_output_embeddings().weight
    tensors |= {f"heads.{name}": tensor for name, tensor in heads.state_dict().items()}
    return {
        name: tensor.detach().to("cpu", torch.bfloat16, copy=True).contiguous()
        for name, tensor in tensors.items()
    }


def stage1_config(backbone: PreTrainedModel, heads: HeadsConfig, model_name: str) -> dict[str, Any]:
    """The config.json of a stage-1 folder. `skip_token` is the stride that was trained."""
    config: dict[str, Any] = json.loads(backbone.config.to_json_string())
    for key in _DROPPED_KEYS:
        config.pop(key, None)
    return config | {
        "architectures": [ARCHITECTURE],
        "model_type": backbone.config.model_type,
        "model_name": model_name,
        "n_head": heads.n_head,
        "head_num_layers": 1,
        "head_type": HEAD_TYPE,
        "skip_token": heads.skip_token,
        "tie_word_embeddings": backbone.config.tie_word_embeddings,
        "dtype": "bfloat16",
    }


def write_stage1(
    folder: Path,
    backbone: PreTrainedModel,
    heads: LeapHeads,
    config: HeadsConfig,
    tokenizer: Any,
    model_name: str,
) -> None:
    """Write weights, config.json, generation_config.json and the tokenizer to an empty folder."""
    from safetensors.torch import save_file

    save_file(stage1_tensors(backbone, heads), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, stage1_config(backbone, config, model_name))
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def write_plain(folder: Path, backbone: PreTrainedModel, tokenizer: Any) -> None:
    """Write the backbone alone, as an ordinary model that vLLM serves without this package."""
    # A copy: bfloat16 would also round the rotary frequencies, which no file restores.
    copy.deepcopy(backbone).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
