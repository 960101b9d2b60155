"""The exact-chain target as a mixture of experts: the models whose data-parallel ranks need each
other in every step, so that a rank without requests must take part."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.chain.target import (
    HIDDEN,
    VOCAB,
    Chain,
    embeddings,
    idle_config,
    idle_layers,
    rows_that_vote,
    target_votes,
)

EXPERTS = 4


def save_mixture(chain: Chain, folder: Path) -> Path:
    """Write the chain as a Mixtral without heads, whose experts are asked and add nothing."""
    folder.mkdir(parents=True)
    tensors = {
        "model.embed_tokens.weight": embeddings(),
        "model.norm.weight": torch.ones(HIDDEN),
        "lm_head.weight": rows_that_vote(target_votes(), chain.successor),
    }
    tensors |= {
        name: tensor
        for name, tensor in idle_layers(HIDDEN).items()
        if "mlp" not in name and "bias" not in name
    }
    generator = torch.Generator().manual_seed(9)
    square = torch.randn(HIDDEN, HIDDEN, generator=generator) / HIDDEN
    for layer in range(2):
        experts = f"model.layers.{layer}.block_sparse_moe"
        tensors[f"{experts}.gate.weight"] = torch.randn(EXPERTS, HIDDEN, generator=generator)
        for expert in range(EXPERTS):
            tensors[f"{experts}.experts.{expert}.w1.weight"] = square.clone()
            tensors[f"{experts}.experts.{expert}.w2.weight"] = torch.zeros(HIDDEN, HIDDEN)
            tensors[f"{experts}.experts.{expert}.w3.weight"] = square.clone()
    config = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_size": HIDDEN,
        "vocab_size": VOCAB,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        **idle_config(HIDDEN),
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder
