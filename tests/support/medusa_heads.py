"""Medusa heads in FasterDecoding's layout, with the values of a chain."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.chain.target import Chain, save_chain
from tests.support.random_models import tensors_of, write_tensors


def save_medusa(chain: Chain, folder: Path) -> Path:
    """Write the heads of a stride-1 chain as Medusa saves them."""
    assert chain.stride == 1
    save_chain(chain, folder, "heads")
    tensors = {}
    for name, tensor in tensors_of(folder).items():
        _, _, head, *rest = name.split(".")
        block = {"weight": "0.linear.weight", "bias": "0.linear.bias"}
        part = "1.weight" if rest[0] == "lm_head" else block[rest[-1]]
        tensors[f"{head}.{part}"] = tensor
    write_tensors(folder, tensors)
    values = {
        "medusa_num_heads": len(chain.heads),
        "medusa_num_layers": 1,
        "base_model_name_or_path": "somebody/base",
    }
    (folder / "config.json").write_text(json.dumps(values))
    return folder
