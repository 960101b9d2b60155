"""Tiny random models with leap heads, as folders, for the checkpoint tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from vllm_lmtp.cli import main
from vllm_lmtp.formats.checkpoint import INDEX_FILE
from vllm_lmtp.training.model.heads import LeapHeads

EMBEDDED = Path(__file__).parents[2] / "vllm_lmtp" / "checkpoints" / "tiny"
HIDDEN, VOCAB = 32, 61
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config}


def random_model(
    model_type: str = "llama", tied: bool = False, n_heads: int = 2, hidden: int = HIDDEN
) -> PreTrainedModel:
    """A random float32 model of two layers, its leap heads as the module `heads`."""
    torch.manual_seed(3)
    config = CONFIGS[model_type](
        hidden_size=hidden,
        vocab_size=VOCAB,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    model = AutoModelForCausalLM.from_config(config).float().eval()
    model.heads = LeapHeads(n_heads, model.get_output_embeddings().weight)
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def save_stage1(
    folder: Path,
    model: PreTrainedModel | None = None,
    *,
    stride: int = 2,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    **changes: Any,
) -> Path:
    """Write a model with heads in the reference's layout."""
    folder.mkdir(parents=True)
    model = random_model() if model is None else model
    tensors = dict(model.state_dict()) | {
        "lm_head.weight": model.get_output_embeddings().weight.detach()
    }
    tensors = {name: t.to(dtype).clone().contiguous() for name, t in tensors.items()}
    values = json.loads(model.config.to_json_string()) | {
        "architectures": ["LMTPModel"],
        "model_name": "somebody/base",
        "n_head": len(model.heads.heads),
        "head_num_layers": 1,
        "head_type": "lmtp",
        "skip_token": stride,
        "dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(values | changes))
    (folder / "tokenizer.json").write_text('{"fake": true}')
    (folder / "modeling.py").write_text("raise RuntimeError")
    write_tensors(folder, tensors, shards)
    return folder


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> None:
    """One file, or several and their index."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = list(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder's files."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        part = load_file(file)
        assert not found.keys() & part.keys()
        found |= part
    return found


def config_of(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return value


def change_config(folder: Path, file: str = "config.json", **values: Any) -> None:
    """Set keys of a JSON file; `...` removes one."""
    path = folder / file
    changed = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not ...}))


def assert_same_tensors(found: Path, expected: Path) -> None:
    """Both folders hold the same names, dtypes and bits."""
    one, two = tensors_of(found), tensors_of(expected)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype, name
        assert torch.equal(tensor, two[name]), name


def logits_of(folder: Path) -> torch.Tensor:
    """The logits of plain transformers on a fixed row of tokens, in the dtype on disk."""
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto").eval()
    with torch.no_grad():
        return model(torch.arange(1, 33).unsqueeze(0)).logits


def succeed(*words: str | Path, code: int = 0) -> None:
    assert main([str(word) for word in words]) == code


def refusals(capfd: pytest.CaptureFixture[str], *words: str | Path) -> list[dict[str, str]]:
    """The refusals of a command that must exit with 2; each must be complete."""
    capfd.readouterr()
    assert main([*(str(word) for word in words), "--json"]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("error: L-MTP: ")
    found: list[dict[str, str]] = json.loads(out)["refusals"]
    assert found
    for refusal in found:
        assert set(refusal) == {"where", "field", "found", "expected", "remedy"}
        assert all(refusal.values())
    return found


def fields(capfd: pytest.CaptureFixture[str], *words: str | Path) -> set[str]:
    return {refusal["field"] for refusal in refusals(capfd, *words)}
