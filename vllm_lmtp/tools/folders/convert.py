"""Between the layouts of leap heads: stage 1 and heads only, bit for bit in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import Refusal, raise_refusals, refuse
from vllm_lmtp.formats.checkpoint import (
    ARCHITECTURE,
    CONFIG_FILE,
    HEAD_TYPE,
    HeadsCheckpoint,
    is_stage1_config,
    read_checkpoint,
    read_config,
)
from vllm_lmtp.formats.files import LICENCES, Weights, causal_lm_class, is_tied, read_folder
from vllm_lmtp.formats.speculators import ITSELF, speculators_fields, stated_target
from vllm_lmtp.formats.tensors import HEADS_PREFIX
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.tools.folders.export import EMBEDDINGS, OUTPUT_MATRIX, read_stage1
from vllm_lmtp.tools.folders.save import Written, write_folder


def to_heads(
    folder: Path, output: Path, *, target: Path | None = None, overwrite: bool = False
) -> Written:
    """Write the heads of a folder alone, with the target that `vllm serve` finds for them.

    Args:
        folder: a stage-1 folder; or heads alone, which then state another target.
        output: the folder to make.
        target: the folder of the model that the heads draft for; None for the stage-1 folder.
        overwrite: replace the output.

    Raises:
        LMTPError: no sound folder, heads alone without a target, a target that they do not fit, or
            an output that is there or cannot be written.
    """
    checkpoint = read_checkpoint(folder)
    if checkpoint.stage1:
        config, weights, _ = read_stage1(folder)
    elif target is None:
        raise refuse(
            str(folder),
            "layout",
            found="heads alone already",
            expected="a stage-1 folder, or another target for these heads",
            remedy="add --target TARGET to state it",
        )
    else:
        config, weights = read_folder(folder)
    if target is not None:
        raise_refusals(_unfit(target, read_config(target), checkpoint))
    stated = stated_target(target or folder, output, checkpoint.schedule)
    return write_folder(
        output,
        {name: weights.entry(name) for name in weights.heads()},
        heads_config(checkpoint, config) | stated,
        tool="convert --to heads",
        inputs=[folder] if target is None else [folder, target],
        facts={"heads": checkpoint.schedule.n_heads, "stride": checkpoint.schedule.stride},
        overwrite=overwrite,
        beside=LICENCES,
    )


def to_stage1(
    heads: Path,
    base: Path,
    output: Path,
    *,
    name: str | None = None,
    alone: bool = False,
    overwrite: bool = False,
) -> Written:
    """Write heads and the plain model they were trained on into one folder.

    Args:
        heads: a heads-only folder.
        base: a plain text model; its tensors are copied as they are.
        output: the folder to make.
        name: the base's name for config.json's `model_name`, where the heads do not state it.
        alone: state the folder as its own target, so that naming it is enough to draft; it can then
            not be served plainly any more.
        overwrite: replace the output.

    Raises:
        LMTPError: the heads do not fit the base, either already holds both, or the output is there
            or cannot be written.
    """
    checkpoint = read_checkpoint(heads)
    heads_raw, head_weights = read_folder(heads)
    if is_stage1_config(heads_raw) or any(head_weights.backbone()):
        raise refuse(
            str(heads),
            "layout",
            found="a backbone beside the heads",
            expected="a heads-only folder",
            remedy="take its heads out first: vllm-lmtp convert --to heads",
        )
    base_raw, base_weights = read_folder(base)
    _check_base(base, base_raw, base_weights, checkpoint)
    stated = heads_config(checkpoint, heads_raw)
    for key in ("hidden_size", "vocab_size", "model_type"):
        stated.pop(key, None)
    tensors = {n: base_weights.entry(n) for n in base_weights.tensors}
    if OUTPUT_MATRIX not in tensors and is_tied(base):
        tensors[OUTPUT_MATRIX] = base_weights.entry(EMBEDDINGS)  # as the reference saves it
    if alone:
        architectures = [causal_lm_class(base, base_raw)]
        stated |= speculators_fields(ITSELF, architectures, checkpoint.schedule)
    return write_folder(
        output,
        tensors | {n: head_weights.entry(n) for n in head_weights.tensors},
        base_raw | {"model_name": name or base.name} | stated,
        tool="convert --to stage1",
        inputs=[heads, base],
        facts={"heads": checkpoint.schedule.n_heads, "stride": checkpoint.schedule.stride},
        overwrite=overwrite,
        companions_of=base,
    )


def heads_config(checkpoint: HeadsCheckpoint, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a heads-only folder, from that of the folder the heads lie in."""
    values = head_fields(
        checkpoint.schedule, checkpoint.num_layers, checkpoint.hidden_size, checkpoint.vocab_size
    )
    if checkpoint.draft_vocab_size is not None:
        values["draft_vocab_size"] = checkpoint.draft_vocab_size
    kept = {key: config[key] for key in ("model_type", "model_name", "scorer") if key in config}
    return values | kept


def head_fields(
    schedule: LeapSchedule, num_layers: int, hidden_size: int, vocab_size: int
) -> dict[str, Any]:
    """The fields that describe leap heads (docs/checkpoints.md)."""
    return {
        "architectures": [ARCHITECTURE],
        "n_head": schedule.n_heads,
        "head_num_layers": num_layers,
        "head_type": HEAD_TYPE,
        "skip_token": schedule.stride,
        "hidden_size": hidden_size,
        "vocab_size": vocab_size,
    }


def _check_base(
    base: Path, config: Mapping[str, Any], weights: Weights, checkpoint: HeadsCheckpoint
) -> None:
    """Every reason why these heads cannot join this base."""
    faults = []
    if heads := next(weights.heads(), None):
        found = f"leap heads already ({heads}, ...)"
        remedy = "drop them first: vllm-lmtp export"
        faults.append(Refusal(str(base), f"{HEADS_PREFIX}*", found, "a model without", remedy))
    raise_refusals(faults)
    plain = causal_lm_class(base, config)
    architectures = config.get("architectures", [plain])
    if architectures != [plain]:
        faults.append(
            Refusal(
                str(base / CONFIG_FILE),
                "architectures",
                repr(architectures),
                f"[{plain!r}], the text model that a stage-1 folder is served as",
                "keep the heads in a folder of their own and serve them beside the target",
            )
        )
    faults += _unfit(base, config, checkpoint)
    if EMBEDDINGS not in weights.tensors:
        found, remedy = "no such tensor", "give the folder of a whole model"
        faults.append(Refusal(str(base), EMBEDDINGS, found, "the backbone's tensors", remedy))
    if "num_hidden_layers" not in config:
        found, remedy = "no such key", "restore the config of the text model"
        where = str(base / CONFIG_FILE)
        faults.append(Refusal(where, "num_hidden_layers", found, "the number of layers", remedy))
    raise_refusals(faults)


def _unfit(base: Path, config: Mapping[str, Any], checkpoint: HeadsCheckpoint) -> list[Refusal]:
    """Sizes of a model that are not those of the heads."""
    faults = []
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    for field, value in (
        ("hidden_size", checkpoint.hidden_size),
        ("vocab_size", checkpoint.vocab_size),
    ):
        if config.get(field) != value:
            found = repr(config.get(field, "no such key"))
            remedy = "give the model that the heads were trained on"
            expected = f"{value}, as in the heads of {checkpoint.path}"
            faults.append(Refusal(str(base / CONFIG_FILE), field, found, expected, remedy))
    return faults
