"""A PEFT LoRA adapter on disk: what it says, what it holds, and whether it fits a model.

W' = W + (alpha / r) B A. Only plain LoRA on whole matrices is read; every feature that would change
that formula is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_lmtp.errors import Refusal, raise_refusals, refuse
from vllm_lmtp.formats.checkpoint import read_header
from vllm_lmtp.formats.files import Weights, read_tensor
from vllm_lmtp.formats.inside import refuse_links_out
from vllm_lmtp.formats.json_file import read_json
from vllm_lmtp.formats.tensors import FLOAT_DTYPES, TensorInfo
from vllm_lmtp.formats.unmerged import ADAPTER_CONFIG, ADAPTER_FILE

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "base_model.model."
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# Settings that decide about the formula, and the values under which it holds.
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    # The others take something out of the base's own weights first.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
# Settings that say nothing about the merged weights. All others, those of future versions too, are
# features of peft that are off when they are false or empty.
HARMLESS = {
    *("r", "lora_alpha", "target_modules", "exclude_modules", "layers_pattern"),
    *("layers_to_transform", "task_type", "auto_mapping", "parent_library", "peft_version"),
    *("base_model_name_or_path", "revision", "inference_mode", "lora_dropout", "loftq_config"),
    *("eva_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
}


@dataclass(frozen=True)
class Adapter:
    """A plain LoRA adapter.

    folder: where it lies. rank: r. scale: alpha / r. pairs: (A, B) by the module's name in the
    model, A float [r, in] and B float [out, r], still on disk.
    """

    folder: Path
    rank: int
    scale: float
    pairs: Mapping[str, tuple[TensorInfo, TensorInfo]]

    def delta(self, module: str) -> Tensor:
        """What to add to the module's weight: scale * B A, [out, in] float32."""
        a, b = (
            read_tensor(info.file, f"{PREFIX}{module}.lora_{side}.weight").float()
            for info, side in zip(self.pairs[module], "AB", strict=True)
        )
        return (b @ a) * self.scale


def read_adapter(folder: Path, weights: Weights) -> Adapter:
    """Read an adapter and check it against the model it is to be merged into.

    Raises:
        LMTPError: no adapter, one with unsupported features, tensors that the model has no place
            for, or a file that lacks some; all reasons at once.
    """
    config = _read_config(folder)
    faults = _unsupported(folder / ADAPTER_CONFIG, config)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        faults.append(_config_fault(folder, "r", rank, "a positive integer"))
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        faults.append(_config_fault(folder, "lora_alpha", alpha, "a number"))
    is_target = _target_test(config.get("target_modules"))
    if is_target is None:
        found = config.get("target_modules")
        faults.append(_config_fault(folder, "target_modules", found, "names of modules"))
    raise_refusals(faults)
    assert isinstance(rank, int)
    assert isinstance(alpha, int | float)
    assert is_target is not None
    adapter = Adapter(folder, rank, alpha / rank, _pairs(folder))
    _check_fit(adapter, weights, is_target, partial=_is_partial(config))
    return adapter


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / ADAPTER_CONFIG
    remedy = "give the folder that peft saved: adapter_config.json and adapter_model.safetensors"
    expected = "a PEFT adapter"
    for path in (file, folder / ADAPTER_FILE):
        if not path.is_file():
            found = "no such file" if folder.is_dir() else "no such folder"
            if path.with_suffix(".bin").is_file():
                found = "only adapter_model.bin, which could run code and is never opened"
            raise refuse(str(folder), path.name, found=found, expected=expected, remedy=remedy)
    refuse_links_out(folder, [file, folder / ADAPTER_FILE])
    return read_json(file, remedy, expected)


def _unsupported(file: Path, config: Mapping[str, Any]) -> list[Refusal]:
    remedy = "merge it with peft in memory, or train a plain LoRA adapter"
    faults = []
    for field, found in config.items():
        if field in PLAIN:
            if not any(_same(found, value) for value in PLAIN[field]):
                expected = f"{PLAIN[field][0]!r}, plain LoRA"
                faults.append(Refusal(str(file), field, repr(found), expected, remedy))
        elif found and field not in HARMLESS:
            expected = "false or empty: plain LoRA"
            faults.append(Refusal(str(file), field, repr(found), expected, remedy))
    if "peft_type" not in config:
        faults.append(Refusal(str(file), "peft_type", "no such key", "'LORA'", remedy))
    return faults


def _same(found: Any, value: Any) -> bool:
    return type(found) is type(value) and found == value


def _config_fault(folder: Path, field: str, found: Any, expected: str) -> Refusal:
    remedy = "restore the file that peft saved beside the weights"
    return Refusal(str(folder / ADAPTER_CONFIG), field, repr(found), expected, remedy)


def _target_test(targets: Any) -> Callable[[str], bool] | None:
    """Whether a module's name is among the targets, by peft's rule; None if there is no saying."""
    if targets == "all-linear":
        return lambda module: module != "lm_head"
    if isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error:
            return None
        return lambda module: pattern.fullmatch(module) is not None
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        return None
    return lambda module: any(module == t or module.endswith(f".{t}") for t in targets)


def _is_partial(config: Mapping[str, Any]) -> bool:
    """Whether the targets leave some modules out by another setting, or by a rule of peft's."""
    settings = ("layers_to_transform", "layers_pattern", "exclude_modules")
    return any(config.get(key) for key in settings) or config.get("target_modules") == "all-linear"


def _pairs(folder: Path) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """A and B of every module; a tensor that is neither, or alone, is refused."""
    file = folder / ADAPTER_FILE
    sides: dict[str, dict[str, TensorInfo]] = {}
    faults = []
    for name, info in read_header(file).items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            expected = f"{PREFIX}<module>.lora_A.weight or lora_B.weight"
            remedy = "merge it with peft in memory, or train a plain LoRA adapter"
            faults.append(Refusal(str(file), name, "not a tensor of plain LoRA", expected, remedy))
            continue
        sides.setdefault(match["module"], {})[match["side"]] = info
    for module, found in sides.items():
        if len(found) < 2:
            name = f"{PREFIX}{module}.lora_{'B' if 'A' in found else 'A'}.weight"
            remedy = "copy the adapter again"
            faults.append(Refusal(str(file), name, "no such tensor", "both A and B", remedy))
    if not sides and not faults:
        remedy = "copy the adapter again"
        faults.append(Refusal(str(file), "lora_A", "no tensors", "a LoRA adapter's", remedy))
    raise_refusals(faults)
    return {module: (found["A"], found["B"]) for module, found in sides.items()}


def _check_fit(
    adapter: Adapter, weights: Weights, is_target: Callable[[str], bool], partial: bool
) -> None:
    """Every tensor of the adapter has its place in the model, and every target has an adapter."""
    file, other = str(adapter.folder / ADAPTER_FILE), "give the stage-1 folder it was trained on"
    faults = []
    for module, (a, b) in adapter.pairs.items():
        base = weights.tensors.get(f"{module}.weight")
        if base is None:
            found = f"an adapter of {module}, which {weights.folder} does not have"
            faults.append(Refusal(file, module, found, "modules of this stage-1 folder", other))
            continue
        shapes = {"A": (adapter.rank, *base.shape[1:]), "B": (*base.shape[:1], adapter.rank)}
        for side, info in zip("AB", (a, b), strict=True):
            fits = len(base.shape) == 2 and info.shape == shapes[side]
            if not fits or info.dtype not in FLOAT_DTYPES or base.dtype not in FLOAT_DTYPES:
                found = f"{info.dtype} {list(info.shape)} for a {base.dtype} {list(base.shape)}"
                expected = f"{list(shapes[side])} of {', '.join(FLOAT_DTYPES)}, r {adapter.rank}"
                name = f"{PREFIX}{module}.lora_{side}.weight"
                faults.append(Refusal(file, name, found, expected, other))
        if not is_target(module):
            where = str(adapter.folder / ADAPTER_CONFIG)
            expected, remedy = f"a name that covers {module}", "restore the config or the weights"
            faults.append(Refusal(where, "target_modules", "none such", expected, remedy))
    for name, info in weights.tensors.items():
        module = name.removesuffix(".weight")
        needs = name.endswith(".weight") and len(info.shape) == 2 and is_target(module)
        if needs and not partial and module not in adapter.pairs:
            found = f"no adapter of {module}, which target_modules names"
            remedy = "give the stage-1 folder it was trained on, or copy the adapter again"
            faults.append(Refusal(file, module, found, "one for each such module", remedy))
    raise_refusals(faults)
