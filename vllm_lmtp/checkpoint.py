"""What a folder on disk says about its leap heads, read without loading a single weight.

Two layouts carry the same tensors (docs/checkpoints.md):

- *stage 1*, as the reference saves it: backbone and heads in one folder, `architectures:
  ["LMTPModel"]`;
- *heads only*: a folder with nothing but `heads.*`, used beside an ordinary target.

Only config.json and the headers of safetensors files are read here; no file is ever executed and
no other format is opened. Every fault is collected, so that one error lists them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import Refusal, raise_refusals, refuse
from vllm_lmtp.leap import LeapSchedule

HEAD_TYPE = "lmtp"
ARCHITECTURE = "LMTPModel"
CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
HEADS_PREFIX = "heads."
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FLOAT_DTYPES = ("BF16", "F16", "F32")
# Far above any published model; a number beyond it is a mistake, not a checkpoint.
MAX_HEADS = 64
MAX_STRIDE = 64
MAX_LAYERS = 64

_TENSOR = re.compile(
    r"heads\.heads\.(?P<head>\d+)\."
    r"(?:resblock\.(?P<layer>\d+)\.l_proj\.(?P<kind>weight|bias)|lm_head\.weight)"
)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file: the file, its shape and safetensors' name of its dtype."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class HeadsCheckpoint:
    """The leap heads of one folder.

    path: the folder. schedule: number of heads and stride. num_layers: residual blocks a head
    applies, all with the same weights. hidden_size, vocab_size: read from the tensors.
    tensors: every `heads.*` tensor by its name on disk. stage1: the folder holds a backbone too.
    """

    path: Path
    schedule: LeapSchedule
    num_layers: int
    hidden_size: int
    vocab_size: int
    tensors: Mapping[str, TensorInfo]
    stage1: bool

    def lm_head(self, head: int) -> TensorInfo:
        """The output matrix of a head, [V, H]."""
        return self.tensors[f"heads.heads.{head}.lm_head.weight"]


def read_config(folder: Path) -> dict[str, Any]:
    """The raw config.json of a folder.

    Raises:
        LMTPError: no such folder, no such file, not JSON, or not a JSON object.
    """
    if not folder.is_dir():
        raise refuse(
            str(folder),
            "path",
            found="a file" if folder.exists() else "nothing there",
            expected="a checkpoint folder",
            remedy="check the path, or give a Hugging Face id that can be fetched",
        )
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise refuse(
            str(folder),
            CONFIG_FILE,
            found="no such file",
            expected="the config.json that was saved beside the weights",
            remedy="copy it from the folder that the training run wrote",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise refuse(
            str(path),
            "content",
            found=f"unreadable JSON ({error})",
            expected="a JSON object",
            remedy="restore the file from the training run",
        ) from error
    if not isinstance(config, dict):
        raise refuse(
            str(path),
            "content",
            found=f"a JSON {type(config).__name__}",
            expected="a JSON object",
            remedy="restore the file from the training run",
        )
    return config


def is_lmtp_config(config: Mapping[str, Any]) -> bool:
    """Whether a raw config.json belongs to a folder with leap heads.

    The reference's Gemma 3 checkpoints lack `head_type`, so the architecture counts as well.
    """
    architectures = config.get("architectures")
    return config.get("head_type") == HEAD_TYPE or (
        isinstance(architectures, list) and ARCHITECTURE in architectures
    )


def is_stage1_config(config: Mapping[str, Any]) -> bool:
    """Whether a raw config.json belongs to a folder with leap heads *and* their backbone."""
    return is_lmtp_config(config) and "num_hidden_layers" in config


def read_checkpoint(folder: Path, stride: int | None = None) -> HeadsCheckpoint:
    """Read and check a folder's heads.

    Args:
        folder: a stage-1 folder or a heads-only folder.
        stride: used instead of config.json's `skip_token`, which published checkpoints are known
            to misstate.

    Raises:
        LMTPError: anything in the folder that could not be served, all faults at once.
    """
    config = read_config(folder)
    faults: list[Refusal] = []
    stated = _Stated(folder / CONFIG_FILE, config, faults)
    if config.get("head_type", HEAD_TYPE) != HEAD_TYPE:
        stated.fault("head_type", repr(config["head_type"]), repr(HEAD_TYPE), "these are not L-MTP heads")
    tensors = _head_tensors(folder)
    heads_in_file = 1 + max(int(m["head"]) for name in tensors if (m := _TENSOR.fullmatch(name)))
    n_heads = stated.integer("n_head", MAX_HEADS, default=heads_in_file)
    num_layers = stated.integer("head_num_layers", MAX_LAYERS, default=1)
    if stride is None:
        stride = stated.integer(
            "skip_token",
            MAX_STRIDE,
            remedy='set it, or pass the stride as {"method": "lmtp", "lmtp_stride": 2}',
        )
    hidden_size, vocab_size = _sizes(folder, tensors, n_heads, num_layers, faults)
    for field, actual in (("hidden_size", hidden_size), ("vocab_size", vocab_size)):
        if config.get(field, actual) != actual and actual > 0:
            stated.fault(
                field,
                repr(config[field]),
                f"{actual}, as in the head tensors",
                "restore config.json or the weights: they are of different models",
            )
    raise_refusals(faults)
    assert n_heads is not None and num_layers is not None and stride is not None
    return HeadsCheckpoint(
        path=folder,
        schedule=LeapSchedule(n_heads, stride),
        num_layers=num_layers,
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        tensors=tensors,
        stage1=is_stage1_config(config),
    )


class _Stated:
    """Reads integers out of a config.json and notes what is wrong with them."""

    def __init__(self, path: Path, config: Mapping[str, Any], faults: list[Refusal]) -> None:
        self.path, self.config, self.faults = path, config, faults

    def fault(self, field: str, found: str, expected: str, remedy: str) -> None:
        self.faults.append(Refusal(str(self.path), field, found, expected, remedy))

    def integer(
        self, field: str, most: int, default: int | None = None, remedy: str = ""
    ) -> int | None:
        value = self.config.get(field, default)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
            return value
        self.fault(
            field,
            repr(value) if field in self.config else "no such key",
            f"an integer from 1 to {most}",
            remedy or "restore the value that the heads were trained with",
        )
        return default


def _head_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every `heads.*` tensor of the folder's safetensors files, by name."""
    files = _safetensors_files(folder)
    tensors: dict[str, TensorInfo] = {}
    faults: list[Refusal] = []
    for file in files:
        for name, info in _read_header(file).items():
            if not name.startswith(HEADS_PREFIX):
                continue
            if name in tensors:
                faults.append(
                    Refusal(
                        str(file),
                        name,
                        f"a second copy (the first is in {tensors[name].file.name})",
                        "each tensor once",
                        "delete the stale shard, or save the checkpoint again",
                    )
                )
            elif _TENSOR.fullmatch(name) is None:
                faults.append(
                    Refusal(
                        str(file),
                        name,
                        "a tensor this version does not know",
                        "heads.heads.<i>.resblock.<j>.l_proj.{weight,bias} and "
                        "heads.heads.<i>.lm_head.weight",
                        "convert the checkpoint, or remove the tensor if it is a leftover",
                    )
                )
            else:
                tensors[name] = info
    if not tensors and not faults:
        raise refuse(
            str(folder),
            "heads.*",
            found=f"no such tensor in {len(files)} safetensors file(s)",
            expected="the leap heads (heads.heads.0.lm_head.weight, ...)",
            remedy="give the folder that holds the heads as the speculative model; "
            "a merged or exported model has none",
        )
    raise_refusals(faults)
    return tensors


def _safetensors_files(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if files:
            return files
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
        raise refuse(
            str(folder),
            "weights",
            found=f"only {', '.join(pickles)}" if pickles else "no weight file",
            expected="safetensors files",
            remedy="save the model again with safe_serialization=True; pickled weights can run "
            "code and are never opened"
            if pickles
            else "download the *.safetensors files of the checkpoint",
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / name for name in names if Path(name).name == name]
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise refuse(
            str(index),
            "weight_map",
            found=f"unreadable ({error!r})",
            expected="a JSON object that maps tensor names to files",
            remedy="download the index again",
        ) from error
    missing = [Path(n).name for n in names if Path(n).name != n or not (folder / n).is_file()]
    if missing:
        raise refuse(
            str(index),
            "weight_map",
            found=f"names of missing files: {', '.join(missing)}",
            expected="every shard beside the index",
            remedy="download the missing shards",
        )
    return files


def _read_header(file: Path) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of one safetensors file; the bytes of the tensors stay on disk."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            return {
                name: TensorInfo(file, tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise refuse(
            str(file),
            "content",
            found=f"not a whole safetensors file ({error})",
            expected="a safetensors file of the size its header states",
            remedy="download or copy the file again; it is truncated or not safetensors",
        ) from error


def _sizes(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    n_heads: int | None,
    num_layers: int | None,
    faults: list[Refusal],
) -> tuple[int, int]:
    """Check names, shapes and dtypes against each other; return (hidden_size, vocab_size).

    The first head's output matrix sets the sizes that all other tensors must agree with.
    """
    reference = next((i for n, i in tensors.items() if n.endswith("lm_head.weight")), None)
    vocab_size, hidden_size = reference.shape if reference and len(reference.shape) == 2 else (0, 0)
    shapes = {
        "lm_head.weight": (vocab_size, hidden_size),
        "l_proj.weight": (hidden_size, hidden_size),
        "l_proj.bias": (hidden_size,),
    }
    if n_heads is None or num_layers is None:
        return hidden_size, vocab_size
    for name in required_tensors(n_heads):
        if name not in tensors:
            faults.append(
                Refusal(
                    str(folder),
                    name,
                    "no such tensor",
                    f"the tensors of {n_heads} head(s), as n_head states",
                    "correct n_head in config.json, or restore the missing shard",
                )
            )
    for name, info in tensors.items():
        match = _TENSOR.fullmatch(name)
        assert match is not None
        expected = next(shape for suffix, shape in shapes.items() if name.endswith(suffix))
        remedy = "restore the tensor, or correct config.json to the model that was trained"
        if int(match["head"]) >= n_heads:
            faults.append(
                Refusal(str(info.file), name, f"head {match['head']}", f"heads 0..{n_heads - 1}", remedy)
            )
        if match["layer"] is not None and int(match["layer"]) >= num_layers:
            layers = f"residual blocks 0..{num_layers - 1}"
            faults.append(
                Refusal(str(info.file), name, f"block {match['layer']}", layers, remedy)
            )
        if info.shape != expected or 0 in info.shape:
            faults.append(
                Refusal(str(info.file), name, f"shape {list(info.shape)}", str(list(expected)), remedy)
            )
        if info.dtype not in FLOAT_DTYPES:
            dtypes = " or ".join(FLOAT_DTYPES)
            faults.append(Refusal(str(info.file), name, f"dtype {info.dtype}", dtypes, remedy))
    return hidden_size, vocab_size


def required_tensors(n_heads: int) -> list[str]:
    """Names every checkpoint must hold.

    Block 0 alone is required: the reference repeats one block `head_num_layers` times, so files
    may hold the copies or leave them out.
    """
    return [
        f"heads.heads.{head}.{part}"
        for head in range(n_heads)
        for part in ("resblock.0.l_proj.weight", "resblock.0.l_proj.bias", "lm_head.weight")
    ]
