"""Small checkpoint folders for tests: valid ones, to be damaged by the test at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vllm_lmtp.formats.checkpoint import CONFIG_FILE, INDEX_FILE

HIDDEN = 4
VOCAB = 6
WEIGHTS = "model.safetensors"


def config(stage1: bool = False, **changes: Any) -> dict[str, Any]:
    """A config.json of two heads with stride 2; a change to `...` removes the key."""
    values: dict[str, Any] = {
        "architectures": ["LMTPModel"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "vocab_size": VOCAB,
        "n_head": 2,
        "head_num_layers": 1,
        "head_type": "lmtp",
        "skip_token": 2,
    }
    if stage1:
        values["num_hidden_layers"] = 1
    return {key: value for key, value in (values | changes).items() if value is not ...}


def heads(
    n_heads: int = 2,
    layers: int = 1,
    hidden: int = HIDDEN,
    vocab: int = VOCAB,
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, torch.Tensor]:
    """Random head tensors; every one of `layers` blocks is a copy of block 0."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for head in range(n_heads):
        weight = torch.randn(hidden, hidden, generator=generator).to(dtype)
        bias = torch.randn(hidden, generator=generator).to(dtype)
        for layer in range(layers):
            block = f"heads.heads.{head}.resblock.{layer}.l_proj"
            tensors[f"{block}.weight"] = weight.clone()
            tensors[f"{block}.bias"] = bias.clone()
        output = torch.randn(vocab, hidden, generator=generator).to(dtype)
        tensors[f"heads.heads.{head}.lm_head.weight"] = output
    return tensors


def reduced(
    n_heads: int = 2, drafted: int = 4, hidden: int = HIDDEN, vocab: int = VOCAB
) -> dict[str, torch.Tensor]:
    """int8 heads that draft every token but the first `vocab - drafted`."""
    generator = torch.Generator().manual_seed(2)
    tensors = heads(n_heads, 1, hidden, drafted)
    for head in range(n_heads):
        weight = torch.randint(-127, 128, (drafted, hidden), generator=generator)
        tensors[f"heads.heads.{head}.lm_head.weight"] = weight.to(torch.int8)
        scale = 0.01 + torch.rand(drafted, generator=generator) / 100
        tensors[f"heads.heads.{head}.lm_head.scale"] = scale
    return tensors | {"heads.d2t": torch.full((drafted,), vocab - drafted)}


def reduced_config(drafted: int = 4, **changes: Any) -> dict[str, Any]:
    """The config.json of `reduced` heads."""
    return config(**{"draft_vocab_size": drafted} | changes)


def scorer(kind: str, rows: int = VOCAB, size: int = 2) -> dict[str, torch.Tensor]:
    """A scorer's tensors for heads that draft `rows` tokens: rank or successors `size`."""
    if kind == "table":
        ids = torch.arange(size, dtype=torch.int32).repeat(rows + 1, 1)
        return {
            "scorer.table.ids": ids,
            "scorer.table.ratios": torch.ones(rows + 1, size, dtype=torch.float16),
        }
    term = {
        f"scorer.{kind}.embed": torch.ones(rows + 1, size),
        f"scorer.{kind}.output": torch.ones(rows, size),
    }
    if kind == "recurrent":
        term["scorer.recurrent.start"] = torch.ones(size, HIDDEN)
        term["scorer.recurrent.carry"] = torch.ones(size, 2 * size)
    return term


def backbone() -> dict[str, torch.Tensor]:
    """What a stage-1 folder holds beside the heads, tied output matrix written twice."""
    embed = torch.ones(VOCAB, HIDDEN)
    return {"model.embed_tokens.weight": embed, "lm_head.weight": embed.clone()}


def write(folder: Path, tensors: dict[str, torch.Tensor] | None = None, values: Any = None) -> Path:
    """Write a folder of one weight file; the valid default where nothing is given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config() if values is None else values))
    save_file(heads() if tensors is None else tensors, str(folder / WEIGHTS))
    return folder


def write_sharded(folder: Path, shards: list[dict[str, torch.Tensor]]) -> Path:
    """Write a folder of several weight files and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config()))
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, str(folder / name))
        weight_map |= dict.fromkeys(tensors, name)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder
