"""Which tensors a folder of leap heads may hold: their names, shapes and dtypes.

Pure: it judges what was read from headers. Output matrices come in two forms: floating point, or
int8 with one floating-point scale a row. They have a row for every token of the target, or only for
those of a draft vocabulary, which `heads.d2t` then maps to the target's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_lmtp.errors import Refusal

HEADS_PREFIX = "heads."
SCORER_PREFIX = "scorer."
OUR_PREFIXES = (HEADS_PREFIX, SCORER_PREFIX)
D2T = "heads.d2t"
FLOAT_DTYPES = ("BF16", "F16", "F32")
INT8 = "I8"

KNOWN_TENSORS = (
    "heads.heads.<i>.resblock.<j>.l_proj.{weight,bias}, heads.heads.<i>.lm_head.{weight,scale} "
    "and heads.d2t"
)
# One spelling for each number, so that no two names mean the same tensor.
_TENSOR = re.compile(
    r"heads\.heads\.(?P<head>0|[1-9][0-9]?)\."
    r"(?:resblock\.(?P<layer>0|[1-9][0-9]?)\.l_proj\.(?P<block>weight|bias)"
    r"|lm_head\.(?P<output>weight|scale))"
)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file: the file, its shape and safetensors' name of its dtype."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Sizes:
    """What all tensors must agree on. rows: of every output matrix, D or V. 0 where unknown."""

    rows: int
    hidden: int


def is_known(name: str) -> bool:
    """Whether this names a tensor of the heads."""
    return name == D2T or _TENSOR.fullmatch(name) is not None


def head_of(name: str) -> int | None:
    """The head that a known tensor belongs to; None for what all heads share."""
    match = _TENSOR.fullmatch(name)
    return None if match is None else int(match["head"])


def output_name(head: int) -> str:
    """Name of a head's output matrix."""
    return f"heads.heads.{head}.lm_head.weight"


def scale_name(head: int) -> str:
    """Name of the scales of a head's output matrix, which only int8 has."""
    return f"heads.heads.{head}.lm_head.scale"


def block_name(head: int, kind: str, layer: int = 0) -> str:
    """Name of the weight or bias of a head's residual block."""
    return f"heads.heads.{head}.resblock.{layer}.l_proj.{kind}"


def required_tensors(n_heads: int) -> list[str]:
    """Names every checkpoint must hold.

    Block 0 alone is required: the reference repeats one block `head_num_layers` times, so files
    may hold the copies or leave them out.
    """
    return [
        name
        for head in range(n_heads)
        for name in (block_name(head, "weight"), block_name(head, "bias"), output_name(head))
    ]


def output_sizes(tensors: Mapping[str, TensorInfo]) -> Sizes:
    """Sizes of the first sound output matrix."""
    for name, info in sorted(tensors.items()):
        if name.endswith("lm_head.weight") and len(info.shape) == 2 and 0 not in info.shape:
            return Sizes(*info.shape)
    return Sizes(0, 0)


def missing_tensors(
    folder: Path, tensors: Mapping[str, TensorInfo], heads_on_disk: list[int], n_heads: int
) -> list[Refusal]:
    """Faults in the set of heads, and in the set of tensors of each head that is there."""
    faults = []
    if heads_on_disk != list(range(n_heads)):
        found, expected = f"heads {heads_on_disk}", f"{n_heads} head(s), from 0 on"
        remedy = "correct n_head in config.json, or restore the missing shard"
        faults.append(Refusal(str(folder), "heads.heads.*", found, expected, remedy))
    wanted = [name for name in required_tensors(n_heads) if head_of(name) in heads_on_disk]
    wanted += [scale_name(head) for head in heads_on_disk if _is_int8(tensors, head)]
    for name in wanted:
        if name not in tensors:
            found, expected = "no such tensor", "every tensor of the head"
            remedy = "restore the missing shard, or save the checkpoint again"
            faults.append(Refusal(str(folder), name, found, expected, remedy))
    return faults


def unfit_tensors(
    tensors: Mapping[str, TensorInfo], num_layers: int, sizes: Sizes
) -> list[Refusal]:
    """Faults of single tensors: block number, shape (all must share the same sizes) and dtype."""
    faults = []
    for name, info in tensors.items():
        match = _TENSOR.fullmatch(name)
        layer = 0 if match is None else int(match["layer"] or 0)
        shape, dtypes = _expected(match, sizes)
        checks = {
            f"block {layer}": (
                layer < num_layers,
                f"blocks 0..{num_layers - 1}, as head_num_layers states",
            ),
            f"shape {list(info.shape)}": (
                info.shape == shape and 0 not in shape,
                f"shape {list(shape)}" if sizes.rows else "an output matrix [vocabulary, hidden]",
            ),
            f"dtype {info.dtype}": (info.dtype in dtypes, " or ".join(dtypes)),
        }
        remedy = "restore the tensor, or correct config.json to the model that was trained"
        for found, (good, expected) in checks.items():
            if not good:
                faults.append(Refusal(str(info.file), name, found, expected, remedy))
    return faults + _idle_scales(tensors)


def _expected(match: re.Match[str] | None, sizes: Sizes) -> tuple[tuple[int, ...], Iterable[str]]:
    """Shape and dtypes of a tensor; `match` of its name, None for `heads.d2t`."""
    if match is None:
        return (sizes.rows,), ("I64",)
    if match["output"] == "weight":
        return (sizes.rows, sizes.hidden), (*FLOAT_DTYPES, INT8)
    if match["output"] == "scale":
        return (sizes.rows,), FLOAT_DTYPES
    return (sizes.hidden,) * (2 if match["block"] == "weight" else 1), FLOAT_DTYPES


def _idle_scales(tensors: Mapping[str, TensorInfo]) -> list[Refusal]:
    """Scales beside a matrix that has no use for them: one of the two was replaced."""
    faults = []
    for name, info in tensors.items():
        weight = tensors.get(name.removesuffix("scale") + "weight")
        if name.endswith("lm_head.scale") and weight is not None and weight.dtype != INT8:
            found = f"scales beside a weight of dtype {weight.dtype}"
            expected = f"scales for a weight of dtype {INT8} only"
            remedy = "remove them if the weight is not quantised; else restore the int8 weight"
            faults.append(Refusal(str(info.file), name, found, expected, remedy))
    return faults


def _is_int8(tensors: Mapping[str, TensorInfo], head: int) -> bool:
    weight = tensors.get(output_name(head))
    return weight is not None and weight.dtype == INT8
