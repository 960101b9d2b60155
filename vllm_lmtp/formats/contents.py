"""What a checkpoint folder holds, as plain values: the schedule, the sizes, the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from vllm_lmtp.formats.checkpoint import INDEX_FILE, HeadsCheckpoint, read_checkpoint, read_config
from vllm_lmtp.formats.hub import resolve_folder
from vllm_lmtp.formats.tensors import INT8, OUR_PREFIXES, required_tensors

BF16_BYTES = 2


def describe(model: str, stride: int | None = None) -> dict[str, Any]:
    """Everything `vllm-lmtp inspect` shows.

    Args:
        model: a folder or a Hugging Face id.
        stride: instead of config.json's `skip_token`.

    Raises:
        LMTPError: the checkpoint cannot be read, or could not be served.
    """
    checkpoint = read_checkpoint(resolve_folder(model), stride)
    config = read_config(checkpoint.path)
    schedule = checkpoint.schedule
    headers = {file: _read_header(file) for file in _weight_files(checkpoint.path)}
    heads = _head_parameters(checkpoint)
    backbone = _backbone_parameters(headers, config) if checkpoint.stage1 else None
    return {
        "path": str(checkpoint.path),
        "layout": "stage 1 (backbone and heads)" if checkpoint.stage1 else "heads only",
        "stage1": checkpoint.stage1,
        "model_type": config.get("model_type"),
        "n_heads": schedule.n_heads,
        "num_layers": checkpoint.num_layers,
        "stride": schedule.stride,
        "stride_from": "config.json (skip_token)" if stride is None else "--stride",
        "skip_token": config.get("skip_token"),
        "max_drafts": schedule.max_drafts,
        "hidden_size": checkpoint.hidden_size,
        "vocab_size": checkpoint.vocab_size,
        "draft_vocab_size": checkpoint.draft_vocab_size,
        "int8_outputs": [
            head for head in range(schedule.n_heads) if checkpoint.lm_head(head).dtype == INT8
        ],
        "scorer": None if checkpoint.scorer is None else checkpoint.scorer.kind,
        "dtypes": sorted({info.dtype for info in checkpoint.tensors.values()}),
        "heads": [
            {"head": head, "offset": schedule.offset_of_head(head)}
            for head in range(schedule.n_heads)
        ],
        "drafts": draft_places(checkpoint),
        "parameters": {"head": heads // schedule.n_heads, "heads": heads, "backbone": backbone},
        "bytes_bf16": {
            "head": heads // schedule.n_heads * BF16_BYTES,
            "heads": heads * BF16_BYTES,
            "backbone": None if backbone is None else backbone * BF16_BYTES,
        },
        "heads_to_backbone": heads / backbone if backbone else None,
        "files": [
            {"name": file.name, "bytes": file.stat().st_size, "tensors": len(header)}
            for file, header in headers.items()
        ],
    }


def draft_places(checkpoint: HeadsCheckpoint) -> list[dict[str, int]]:
    """The draft in order: place, the offset it fills, and the head and lag it comes from."""
    schedule = checkpoint.schedule
    return [
        {"place": place, "offset": place + 2, "head": source.head, "lag": source.lag}
        for place, source in enumerate(schedule.sources(schedule.max_drafts))
    ]


def _head_parameters(checkpoint: HeadsCheckpoint) -> int:
    """Parameters of all heads, without the copies of a repeated block that a file may hold."""
    names = required_tensors(checkpoint.schedule.n_heads)
    return sum(prod(checkpoint.tensors[name].shape) for name in names)


def _backbone_parameters(
    headers: Mapping[Path, Mapping[str, Any]], config: Mapping[str, Any]
) -> int:
    """Parameters of the backbone, without the copy of tied embeddings that some files hold."""
    shapes = {
        name: info["shape"]
        for header in headers.values()
        for name, info in header.items()
        if not name.startswith(OUR_PREFIXES)
    }
    if config.get("tie_word_embeddings", False):
        shapes.pop("lm_head.weight", None)
    return sum(prod(shape) for shape in shapes.values())


def _weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files, those of the index if there is one; `read_checkpoint` has
    checked that they exist."""
    index = folder / INDEX_FILE
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return [folder / name for name in sorted(set(weight_map.values()))]
    return sorted(folder.glob("*.safetensors"))


def _read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Shapes and dtypes by tensor name: 8 bytes of length, then JSON (`read_checkpoint` has checked
    the file)."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header: dict[str, dict[str, Any]] = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    return header
