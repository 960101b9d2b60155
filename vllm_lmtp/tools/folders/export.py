"""Stage-1 folder in, plain next-token model out: the backbone as it was before it got heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import (
    CONFIG_FILE,
    HeadsCheckpoint,
    is_stage1_config,
    read_checkpoint,
)
from vllm_lmtp.formats.files import Entry, Weights, causal_lm_class, is_tied, read_folder
from vllm_lmtp.formats.speculators import TARGET_FIELDS
from vllm_lmtp.tools.folders.save import Written, write_folder

# `skip_token_was` is the note that `calibrate --write` leaves.
HEAD_KEYS = (
    "n_head",
    "skip_token",
    "skip_token_was",
    "head_type",
    "head_num_layers",
    "model_name",
    "draft_vocab_size",
    "scorer",
    *TARGET_FIELDS,
)
EMBEDDINGS, OUTPUT_MATRIX = "model.embed_tokens.weight", "lm_head.weight"


def export(stage1: Path, output: Path, *, overwrite: bool = False) -> Written:
    """Write the backbone of `stage1` as an ordinary model, its tensors bit for bit.

    Raises:
        LMTPError: no stage-1 folder, an unknown model type, a tied output matrix that differs from
            the embeddings, or an output that is there or cannot be written.
    """
    config, weights, checkpoint = read_stage1(stage1)
    plain = plain_config(stage1, config)
    return write_folder(
        output,
        plain_tensors(stage1, weights),
        plain,
        tool="export",
        inputs=[stage1],
        facts={"dropped_heads": checkpoint.schedule.n_heads},
        overwrite=overwrite,
    )


def read_stage1(folder: Path) -> tuple[dict[str, Any], Weights, HeadsCheckpoint]:
    """config.json, tensors and heads of a stage-1 folder. A missing stride is no fault here.

    Raises:
        LMTPError: anything in it that could not be served, or no backbone.
    """
    # The stride is not asked for: what stands in config.json is kept or dropped as it is.
    checkpoint = read_checkpoint(folder, stride=1)
    config, weights = read_folder(folder)
    if is_stage1_config(config) and any(weights.backbone()):
        return config, weights, checkpoint
    raise refuse(
        str(folder),
        "layout",
        found="heads without a backbone",
        expected="a stage-1 folder, which holds both",
        remedy="make one with vllm-lmtp convert --to stage1 HEADS OUT --target BASE",
    )


def plain_config(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone's own config.json, from that of a stage-1 folder."""
    plain = {key: value for key, value in config.items() if key not in HEAD_KEYS}
    return plain | {"architectures": [causal_lm_class(folder, config)]}


def plain_tensors(folder: Path, weights: Weights) -> dict[str, Entry]:
    """The backbone's tensors; a tied output matrix, which the reference saves too, is left out.

    Raises:
        LMTPError: that matrix differs from the embeddings, so that loaders would not agree on it.
    """
    import torch

    entries = {name: weights.entry(name) for name in weights.backbone()}
    if OUTPUT_MATRIX not in entries or EMBEDDINGS not in entries or not is_tied(folder):
        return entries
    if not torch.equal(weights.read(OUTPUT_MATRIX), weights.read(EMBEDDINGS)):
        raise refuse(
            str(folder / CONFIG_FILE),
            "tie_word_embeddings",
            found=f"true, but {OUTPUT_MATRIX} differs from {EMBEDDINGS}",
            expected="equal tensors in a tied model",
            remedy="set it to false if the output matrix was trained apart",
        )
    del entries[OUTPUT_MATRIX]
    return entries
