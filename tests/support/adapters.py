"""LoRA adapters as peft saves them, with random values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.support.random_models import tensors_of, write_tensors

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "l_proj"]
FILE = "adapter_model.safetensors"


def save_adapter(
    folder: Path, stage1: Path, *, rank: int = 4, alpha: int = 8, **changes: Any
) -> Path:
    """Write a random adapter of every matrix of `stage1` that TARGETS names."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, weight in sorted(tensors_of(stage1).items()):
        module = name.removesuffix(".weight")
        if weight.ndim == 2 and module.rsplit(".", 1)[-1] in TARGETS:
            for side, shape in (("A", (rank, weight.shape[1])), ("B", (weight.shape[0], rank))):
                value = 0.1 * torch.randn(shape, generator=generator)
                tensors[f"base_model.model.{module}.lora_{side}.weight"] = value
    save_file(tensors, folder / FILE)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "elsewhere/stage1",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": TARGETS,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "modules_to_save": None,
        "lora_dropout": 0.05,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    return folder


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace or remove tensors of an adapter, by names with "__" for dots."""
    tensors = load_file(folder / FILE)
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, folder / FILE)


def save_damaged(stage1: Path, folder: Path) -> tuple[Path, Path]:
    """A stage-1 folder and an adapter whose merge is `stage1`, bit for bit, though neither is it.

    `stage1` must hold zeros in every matrix that TARGETS names, as a chain does.
    """
    adapter = save_adapter(folder / "adapter", stage1, rank=4, alpha=8)
    damaged = folder / "damaged"
    shutil.copytree(stage1, damaged)
    lora, tensors = load_file(adapter / FILE), tensors_of(stage1)
    for name in lora:
        if name.endswith(".lora_A.weight"):
            b = lora[name.replace("lora_A", "lora_B")]
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            tensors[f"{module}.weight"] = -2.0 * (b @ lora[name])
    write_tensors(damaged, tensors)
    return damaged, adapter
