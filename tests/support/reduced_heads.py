"""A checkpoint's heads made smaller: a draft vocabulary, int8 output matrices, or both."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support.unscored import without_scorer


def reduce(
    folder: Path, output: Path, *, keep: list[int] | None = None, int8: bool = False
) -> Path:
    """Copy a folder of one weight file with smaller heads, which no scorer of the old ones fits.

    keep: target tokens, in order, that the heads may draft. int8: quantise the output matrices,
    each row by its own largest value.
    """
    without_scorer(folder, output)
    tensors = load_file(output / "model.safetensors")
    config = json.loads((output / "config.json").read_text())
    names = [n for n in tensors if n.startswith("heads.") and n.endswith("lm_head.weight")]
    for name in names:
        weight = tensors[name] if keep is None else tensors[name][keep]
        if int8:
            scale = weight.float().abs().amax(dim=1).clamp(min=1e-6) / 127
            tensors[name.replace("weight", "scale")] = scale
            weight = (weight.float() / scale[:, None]).round().to(torch.int8)
        tensors[name] = weight.contiguous()
    if keep is not None:
        tensors["heads.d2t"] = torch.tensor([token - j for j, token in enumerate(keep)])
        config["draft_vocab_size"] = len(keep)
    save_file(tensors, str(output / "model.safetensors"), metadata={"format": "pt"})
    (output / "config.json").write_text(json.dumps(config))
    return output
