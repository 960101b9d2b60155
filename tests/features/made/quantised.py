"""The embedded checkpoint's backbone in the quantised layouts that vLLM reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
GROUP = 32
"""Inputs that share a scale in the four-bit layouts."""
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def _scaled(weight: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers around zero [N, K] and the scales [N, K / group] that they are of."""
    most = 2 ** (bits - 1) - 1
    parts = weight.float().unflatten(1, (-1, group))
    scales = parts.abs().amax(2, keepdim=True) / most
    whole = (parts / scales).round().clamp(-most, most)
    return whole.flatten(1).int(), scales.squeeze(2)


def _packed(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned integers [rows, n] in words of 32 bits, the first lowest: [rows, n * bits / 32]."""
    each = 32 // bits
    shifts = torch.arange(each, dtype=torch.int64) * bits
    words = (values.long().unflatten(1, (-1, each)) << shifts).sum(2)
    return words.to(torch.uint32).view(torch.int32)


def _group(bits: int, size: int | None) -> dict[str, Any]:
    strategy = (
        {"strategy": "channel"} if size is None else {"strategy": "group", "group_size": size}
    )
    return {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False} | strategy


def _compressed(layout: str, weights: dict[str, Any], inputs: Any = None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


def _w8a8(weight: torch.Tensor) -> Tensors:
    whole, scales = _scaled(weight, 8, weight.shape[1])
    return {"weight": whole.to(torch.int8), "weight_scale": scales}


def _weight_only(bits: int) -> Callable[[torch.Tensor], Tensors]:
    def quantise(weight: torch.Tensor) -> Tensors:
        whole, scales = _scaled(weight, bits, GROUP)
        return {
            "weight_packed": _packed(whole + 2 ** (bits - 1), bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor(weight.shape),
        }

    return quantise


def _gptq(weight: torch.Tensor) -> Tensors:
    whole, scales = _scaled(weight, 4, GROUP)
    columns, rows = weight.shape
    return {
        "qweight": _packed(whole + 8, 4).T.contiguous(),
        "qzeros": _packed(torch.full((rows // GROUP, columns), 7), 4),  # 8, less one by its format
        "scales": scales.T.contiguous().half(),
        "g_idx": torch.arange(rows, dtype=torch.int32) // GROUP,
    }


def _awq(weight: torch.Tensor) -> Tensors:
    whole, scales = _scaled(weight, 4, GROUP)
    columns, rows = weight.shape
    in_order = (whole.T + 8).unflatten(1, (-1, 8))[:, :, AWQ_ORDER].flatten(1)
    return {
        "qweight": _packed(in_order, 4),
        "qzeros": _packed(torch.full((rows // GROUP, columns), 8), 4),
        "scales": scales.T.contiguous().half(),
    }


TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
FOUR = {"bits": 4, "group_size": GROUP}
LAYOUTS: dict[str, tuple[Callable[[torch.Tensor], Tensors], dict[str, Any]]] = {
    "compressed-tensors W8A8 int8, dynamic": (
        _w8a8,
        _compressed("int-quantized", _group(8, None), TOKEN),
    ),
    "compressed-tensors W8A16": (_weight_only(8), _compressed("pack-quantized", _group(8, GROUP))),
    "compressed-tensors W4A16": (_weight_only(4), _compressed("pack-quantized", _group(4, GROUP))),
    "GPTQ, 4 bits": (_gptq, {"quant_method": "gptq", "desc_act": False, "sym": True} | FOUR),
    "AWQ, 4 bits": (_awq, {"quant_method": "awq", "zero_point": True, "version": "gemm"} | FOUR),
}


def quantise(plain: Path, folder: Path, layout: str) -> Path:
    """A plain model with the matrices of its layers in one of LAYOUTS."""
    change, config = LAYOUTS[layout]
    shutil.copytree(plain, folder)
    tensors: Tensors = {}
    for name, weight in load_file(plain / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if ".layers." in name and weight.ndim == 2:
            tensors |= {f"{module}.{part}": tensor for part, tensor in change(weight).items()}
        else:
            tensors[name] = weight
    save_file(tensors, folder / "model.safetensors")
    values = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"quantization_config": config}))
    return folder
