"""A target and heads of a real model's sizes with no real weights, for measuring speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vllm_lmtp.eval.gpu.dimensions import Dimensions
from vllm_lmtp.formats.int8 import quantise_rows
from vllm_lmtp.formats.scorer_tensors import (
    CARRY,
    EMBED,
    OUTPUT,
    RECURRENT,
    START,
    tensor_name,
)

TARGETS: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rope_theta": 500000.0,
    },
    "tiny": {
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
}
"""What `Dimensions` does not say of a Llama."""


def save_target(folder: Path, name: str, size: Dimensions) -> Path:
    """A Llama's config.json; vLLM makes up its weights (`load_format` "dummy")."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "vocab_size": size.vocab,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | TARGETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder


def save_heads(
    folder: Path, size: Dimensions, draft_vocab: int | None, term: tuple[str, int] | None = None
) -> Path:
    """Random heads for it: int8 matrices, so that the file is half as large.

    Args:
        term: kind and rank of a scorer.
    """
    seeded = torch.Generator().manual_seed(0)
    rows, scale = draft_vocab or size.vocab, size.hidden**-0.5
    tensors = {}
    for head in range(size.n_heads):
        name = f"heads.heads.{head}"
        block = torch.randn(size.hidden, size.hidden, generator=seeded) * scale
        tensors[f"{name}.resblock.0.l_proj.weight"] = block.bfloat16()
        bias = torch.zeros(size.hidden, dtype=torch.bfloat16)
        tensors[f"{name}.resblock.0.l_proj.bias"] = bias
        matrix, scales = quantise_rows(torch.randn(rows, size.hidden, generator=seeded) * scale)
        tensors[f"{name}.lm_head.weight"], tensors[f"{name}.lm_head.scale"] = matrix, scales
    config: dict[str, Any] = {
        "architectures": ["LMTPModel"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "vocab_size": size.vocab,
        "n_head": size.n_heads,
        "head_num_layers": 1,
        "head_type": "lmtp",
        "skip_token": size.stride,
    }
    if draft_vocab is not None:
        config["draft_vocab_size"] = draft_vocab
        tensors["heads.d2t"] = torch.zeros(rows, dtype=torch.int64)
    if term is not None:
        kind, rank = term
        config["scorer"] = {"kind": kind, "rank": rank}
        shapes = {EMBED: (rows + 1, rank), OUTPUT: (rows, rank)}
        if kind == RECURRENT:
            shapes |= {START: (rank, size.hidden), CARRY: (rank, 2 * rank)}
        for part, shape in shapes.items():
            drawn = torch.randn(shape, generator=seeded) * rank**-0.5
            tensors[tensor_name(kind, part)] = drawn.bfloat16()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder
