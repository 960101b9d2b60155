"""LoRA adapters of the embedded checkpoint's backbone, and transformers with one of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.engine.test_real import CHECKPOINT
from tests.support.transformers_oracle import Oracle

FILE = "adapter_model.safetensors"
RANK, ALPHA = 4, 8
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZE = 0.05
"""Of the random values: other stories, yet stories, so that heads of the base still guess them."""


def save_adapter(folder: Path, seed: int, output_matrix: bool = False) -> Path:
    """A random adapter as peft saves it, of every matrix of the layers, or of `lm_head` too."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    modules = [*MODULES, "lm_head"] if output_matrix else MODULES
    tensors = {}
    for name, weight in sorted(load_file(CHECKPOINT / "model.safetensors").items()):
        module = name.removesuffix(".weight")
        if not name.startswith("heads.") and module.rsplit(".", 1)[-1] in modules:
            rows, columns = weight.shape
            first = torch.randn(RANK, columns, generator=generator) / columns**0.5
            second = torch.randn(rows, RANK, generator=generator) * SIZE
            tensors[f"base_model.model.{module}.lora_A.weight"] = first
            tensors[f"base_model.model.{module}.lora_B.weight"] = second
    save_file(tensors, folder / FILE)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": modules}))
    return folder


def adapted(base: Oracle, folder: Path) -> Oracle:
    """The oracle with an adapter added to its model's matrices; its heads are the base's."""
    oracle = copy.copy(base)
    oracle.model = copy.deepcopy(base.model)
    tensors = load_file(folder / FILE)
    for name, first in tensors.items():
        if "lora_A" in name:
            second = tensors[name.replace("lora_A", "lora_B")]
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            matrix = oracle.model.get_submodule(module).weight
            if module == "lm_head":  # no longer the embeddings, to which it is tied
                matrix = torch.nn.Parameter(matrix.detach().clone(), requires_grad=False)
                oracle.model.lm_head.weight = matrix
            matrix.data += ALPHA / RANK * second @ first
    return oracle
