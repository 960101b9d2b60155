"""Writing a model folder tensor by tensor, whole or not at all, with a note of where it is from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_lmtp import __version__
from vllm_lmtp.errors import LMTPError, refuse
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, INDEX_FILE
from vllm_lmtp.formats.files import COMPANIONS, Entry, companions
from vllm_lmtp.formats.json_file import read_json
from vllm_lmtp.formats.whole import whole_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
PROVENANCE_FILE = "lmtp_provenance.json"
SHARD_BYTES = 5 * 10**9
ITEM_BYTES = {
    **dict.fromkeys(("I64", "U64", "F64"), 8),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}


@dataclass(frozen=True)
class Written:
    """What a tool wrote. output: the folder. tensors: how many. bytes: of all its weight files.
    facts: what the tool says about it."""

    output: str
    tensors: int
    bytes: int
    facts: Mapping[str, Any]

    def report(self) -> dict[str, Any]:
        """One flat JSON object."""
        fields = asdict(self)
        return {**fields.pop("facts"), **fields}


def write_folder(
    output: Path,
    tensors: Mapping[str, Entry],
    config: Mapping[str, Any],
    *,
    tool: str,
    inputs: Sequence[Path],
    facts: Mapping[str, Any],
    overwrite: bool = False,
    beside: Sequence[str] = COMPANIONS,
    companions_of: Path | None = None,
) -> Written:
    """Write one model folder.

    Args:
        output: the folder to make.
        tensors: made one at a time, so that only one is in memory.
        config: the content of config.json.
        tool: the command, for the provenance; facts: its settings.
        inputs: the folders it read, which the output must not touch.
        overwrite: replace an output folder that is there, if it holds a model.
        beside: patterns of the files copied from `companions_of`, the first input if left out.

    Raises:
        LMTPError: the output is there, or cannot be written. What was there is then still whole.
    """
    output = Path(os.path.realpath(output))
    _check_output(output, inputs, overwrite)
    try:
        with whole_folder(output) as folder:
            size = write_tensors(folder, tensors)
            write_json(folder / CONFIG_FILE, config)
            for file in companions(companions_of or inputs[0], tuple(beside)):
                shutil.copyfile(file, folder / file.name)
            steps = [step for path in inputs for step in _steps(path)]
            steps.append(_step(tool, inputs, output, facts))
            write_json(folder / PROVENANCE_FILE, {"steps": steps})
    except OSError as error:
        raise refuse(
            str(output),
            "output",
            found=f"cannot be written ({error.strerror or error})",
            expected="a place with room for the whole folder",
            remedy="free the space or give another folder; what was there before is unchanged",
        ) from error
    return Written(str(output), len(tensors), size, facts)


def write_tensors(
    folder: Path, tensors: Mapping[str, Entry], shard_bytes: int | None = None
) -> int:
    """Write model.safetensors, or shards of at most `shard_bytes` and their index.

    Returns:
        Bytes of all tensors.
    """
    sizes = {name: _size(name, entry) for name, entry in tensors.items()}
    shards = _pack(sizes, SHARD_BYTES if shard_bytes is None else shard_bytes)
    if len(shards) == 1:
        _write_file(folder / WEIGHTS_FILE, {name: tensors[name] for name in shards[0]}, sizes)
        return sum(sizes.values())
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / file, {name: tensors[name] for name in names}, sizes)
        weight_map |= dict.fromkeys(names, file)
    metadata = {"total_size": sum(sizes.values())}
    write_json(folder / INDEX_FILE, {"metadata": metadata, "weight_map": weight_map})
    return sum(sizes.values())


def _size(name: str, entry: Entry) -> int:
    if entry.dtype in ITEM_BYTES:
        return ITEM_BYTES[entry.dtype] * prod(entry.shape)
    raise refuse(
        "weights",
        name,
        found=f"dtype {entry.dtype}",
        expected=f"one of {', '.join(ITEM_BYTES)}",
        remedy="save the model in one of these first",
    )


def _pack(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in their order, cut where a shard would grow beyond `limit` bytes; a tensor that is
    larger has a shard of its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _write_file(file: Path, tensors: Mapping[str, Entry], sizes: Mapping[str, int]) -> None:
    """One safetensors file: 8 bytes of length, a JSON header, then the tensors without gaps.

    safetensors' own writer wants all tensors in memory at once.
    """
    # The widest first, as safetensors does, so that each tensor is aligned to its own items.
    names = sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + sizes[name]
        entry = tensors[name]
        header[name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            data = _bytes(tensors[name].read())
            assert data.nbytes == sizes[name], (name, data.nbytes, sizes[name])
            handle.write(data)


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    array: Any = flat.view(torch.uint8).numpy()  # a buffer, which numpy says from Python 3.12 on
    return memoryview(array)


def _check_output(output: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    for folder in (Path(os.path.realpath(path)) for path in inputs):
        if output == folder or output in folder.parents:
            raise refuse(
                str(output),
                "output",
                found="the folder that is read, or one around it",
                expected="a folder of its own",
                remedy="give another output folder",
            )
    if not os.path.lexists(output):
        return
    found, remedy = "", "give another output folder"
    if not output.is_dir():
        found = "a file"
    elif not overwrite:
        found, remedy = "a folder that is there already", "give another, or add --overwrite"
    elif any(output.iterdir()) and not (output / CONFIG_FILE).is_file():
        found = "a folder that holds something else than a model"
    if found:
        expected = "a new folder" + (", or a model's to replace" if overwrite else "")
        raise refuse(str(output), "output", found=found, expected=expected, remedy=remedy)


def _step(
    tool: str, inputs: Sequence[Path], output: Path, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """One step of the provenance. Folders are reduced to names: where they lay on the machine that
    made the output is of no use to anyone else."""
    names = [Path(os.path.realpath(path)).name for path in inputs]
    return {
        "tool": f"vllm-lmtp {tool}",
        "version": __version__,
        "inputs": names,
        "output": output.name,
        **facts,
    }


def _steps(folder: Path) -> list[Any]:
    """The steps that an earlier tool noted in its own output."""
    try:
        steps = read_json(folder / PROVENANCE_FILE, remedy="").get("steps")
    except LMTPError:
        return []
    return steps if isinstance(steps, list) else []
