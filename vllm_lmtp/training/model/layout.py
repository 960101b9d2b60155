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

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import (
    ARCHITECTURE,
    CONFIG_FILE,
    HEAD_TYPE,
    read_config,
)
from vllm_lmtp.formats.files import causal_lm_class
from vllm_lmtp.formats.whole import write_json
from vllm_lmtp.training.data.tokenizer import save_tokenizer
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.settings.stages import HeadsConfig

WEIGHTS_FILE = "model.safetensors"
# Where the checkpoint lay on the machine that trained it is of no use to anyone else, and the
# Trainer switches the cache off for its own sake only.
_DROPPED_KEYS = ("_name_or_path", "use_cache")


def load_backbone(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The text backbone of a folder, in evaluation mode; `heads.*` in it are left out.

    Of a multimodal model this is its language model alone, as in the reference's Gemma 3.

    Raises:
        LMTPError: an unknown model type, weights that cannot be loaded, or a model whose output
            matrix reads something else than the states after the final norm.
    """
    check_layout(folder)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise refuse(
            str(folder),
            "model",
            found=f"transformers cannot load it ({str(error).splitlines()[0]})",
            expected="a causal language model with safetensors weights",
            remedy="restore the folder from where it came",
        ) from error
    if report["missing_keys"]:
        raise refuse(
            str(folder),
            "weights",
            found=f"no {', '.join(sorted(report['missing_keys'])[:3])}, ...",
            expected="every tensor of the backbone",
            remedy="restore the missing files",
        )
    model = language_model(model).eval()
    check_final_states(model, str(folder))
    return model


def check_layout(folder: Path) -> None:
    """Refuse, before weights load, a model whose final-norm states are not at hand.

    Raises:
        LMTPError: an unknown model type, or one whose layers are not its `model`, as GPT-2's.
    """
    import transformers

    name = causal_lm_class(folder, read_config(folder))
    prefix = getattr(transformers, name).base_model_prefix
    if prefix != "model":
        raise refuse(
            str(folder / CONFIG_FILE),
            "model_type",
            found=f"{name}, whose layers are its `{prefix}`",
            expected="a model whose layers are its `model`, as those of Llama, Qwen or Gemma",
            remedy="train heads for such a model",
        )


def language_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, or the language model inside a multimodal one, sharing its weights."""
    inner = getattr(model.model, "language_model", None)
    if inner is None:
        return model
    config = model.config.get_text_config()
    with torch.device("meta"):
        text: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    text.model, text.lm_head = inner, model.get_output_embeddings()
    text.generation_config = model.generation_config
    return text


@torch.no_grad()
def check_final_states(model: PreTrainedModel, where: str) -> None:
    """Refuse a model whose logits are not its output matrix times the final-norm states.

    Raises:
        LMTPError: they differ on a few tokens, as with a scale or a cap on the logits.
    """
    ids = torch.arange(3, device=model.device).unsqueeze(0)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(model.get_output_embeddings()(hidden), logits, rtol=1e-2, atol=1e-3):
        raise refuse(
            where,
            "model_type",
            found=f"{model.config.model_type}, whose logits are scaled or capped",
            expected="logits that are the output matrix times the states after the final norm",
            remedy="train heads for a model without such a scale",
        )


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
    # The model's own: a chat model may end its turns with other tokens than its tokenizer states.
    generation = copy.deepcopy(backbone.generation_config) or GenerationConfig()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(generation, name) is None:
            setattr(generation, name, getattr(tokenizer, name))
    generation.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def write_plain(folder: Path, backbone: PreTrainedModel, tokenizer: Any) -> None:
    """Write the backbone alone, as an ordinary model that vLLM serves without this package."""
    # A copy: bfloat16 would also round the rotary frequencies, which no file restores.
    copy.deepcopy(backbone).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
