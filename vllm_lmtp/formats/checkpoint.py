"""What a folder on disk says about its leap heads, read without loading a single weight.

Two layouts carry the same tensors (docs/checkpoints.md):

- *stage 1*, as the reference saves it: backbone and heads in one folder, `architectures:
  ["LMTPModel"]`;
- *heads only*: a folder with nothing but `heads.*`, used beside an ordinary target.

Only config.json and the headers of safetensors files are read here; no file is ever executed and
no other format is opened. Every fault is collected, so that one error lists them all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any, TypeGuard

from vllm_lmtp.errors import LMTPError, Refusal, raise_refusals, refuse
from vllm_lmtp.formats.inside import refuse_links_out
from vllm_lmtp.formats.json_file import read_json
from vllm_lmtp.formats.scorer_tensors import SCORER_TENSORS, ScorerFacts, ScorerSizes, read_scorer
from vllm_lmtp.formats.tensors import (
    D2T,
    KNOWN_TENSORS,
    OUR_PREFIXES,
    TensorInfo,
    head_of,
    is_known,
    missing_tensors,
    output_name,
    output_sizes,
    unfit_tensors,
)
from vllm_lmtp.formats.unmerged import refuse_adapter
from vllm_lmtp.method.leap import LeapSchedule

HEAD_TYPE = "lmtp"
ARCHITECTURE = "LMTPModel"
CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Far above any published model; a number beyond it is a mistake, not a checkpoint.
MAX_HEADS = 64
MAX_STRIDE = 64
MAX_LAYERS = 64
# (value, id) pairs cross tensor-parallel ranks as float32, which is exact below this.
MAX_VOCAB = 2**24
# Of one safetensors file: some 90,000 tensors. safetensors itself reads ten times that.
MAX_HEADER = 10**7


@dataclass(frozen=True)
class HeadsCheckpoint:
    """The leap heads of one folder.

    path: the folder. schedule: number of heads and stride. num_layers: residual blocks a head
    applies, all with the same weights. hidden_size, vocab_size: the target's, H and V.
    draft_vocab_size: D, the tokens that the heads can draft; None where that is all of V.
    tensors: every `heads.*` and `scorer.*` tensor by its name on disk. stage1: the folder holds a
    backbone too. scorer: what makes the places of a draft agree, if there is one.
    """

    path: Path
    schedule: LeapSchedule
    num_layers: int
    hidden_size: int
    vocab_size: int
    tensors: Mapping[str, TensorInfo]
    stage1: bool
    draft_vocab_size: int | None = None
    scorer: ScorerFacts | None = None

    @property
    def output_rows(self) -> int:
        """Rows of every output matrix, D or V."""
        return self.draft_vocab_size or self.vocab_size

    def lm_head(self, head: int) -> TensorInfo:
        """The output matrix of a head, [output_rows, H]."""
        return self.tensors[output_name(head)]


def read_config(folder: Path) -> dict[str, Any]:
    """The raw config.json of a folder.

    Raises:
        LMTPError: no such folder, no such file, not JSON, or not a JSON object.
    """
    path = folder / CONFIG_FILE
    if not os.path.isdir(folder):
        found, expected = "a file" if os.path.exists(folder) else "nothing there", "a folder"
        remedy = "check the path, or give a Hugging Face id that can be fetched"
        raise refuse(str(folder), "path", found=found, expected=expected, remedy=remedy)
    refuse_adapter(folder)
    if not os.path.isfile(path):
        found, expected = "no such file", "the config.json that was saved beside the weights"
        remedy = "copy it from the folder that the training run wrote"
        raise refuse(str(folder), CONFIG_FILE, found=found, expected=expected, remedy=remedy)
    return read_json(path, remedy="restore the file from the training run")


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
    stated.check("head_type", HEAD_TYPE, repr(HEAD_TYPE), "give a folder of L-MTP heads")
    tensors = _head_tensors(folder, faults)
    heads_on_disk = sorted({h for h in map(head_of, tensors) if h is not None})
    n_heads = stated.integer("n_head", MAX_HEADS, default=min(len(heads_on_disk), MAX_HEADS) or 1)
    num_layers = stated.integer("head_num_layers", MAX_LAYERS, default=1)
    stride = stated.stride(stride)
    of_heads = {name: info for name, info in tensors.items() if is_known(name)}
    sizes = output_sizes(of_heads)
    if tensors:
        faults += missing_tensors(folder, tensors, heads_on_disk, n_heads)
        faults += unfit_tensors(of_heads, num_layers, sizes)
    if sizes.rows:
        remedy = "restore config.json or the weights: they are of different models"
        expected = f"{sizes.hidden}, as in the head tensors"
        stated.check("hidden_size", sizes.hidden, expected, remedy)
    vocab_size, draft_vocab_size = stated.vocabulary(folder, D2T in tensors, sizes.rows)
    scorer = None
    if sizes.rows:
        fitting = ScorerSizes(n_heads, sizes.hidden, sizes.rows, vocab_size)
        scorer, found = read_scorer(folder / CONFIG_FILE, config, tensors, fitting)
        faults += found
    raise_refusals(faults)
    return HeadsCheckpoint(
        folder,
        LeapSchedule(n_heads, stride),
        num_layers,
        sizes.hidden,
        vocab_size,
        tensors,
        is_stage1_config(config),
        draft_vocab_size,
        scorer,
    )


class _Stated:
    """What a config.json states. Every fault is noted; a default then stands in for the value."""

    def __init__(self, path: Path, config: Mapping[str, Any], faults: list[Refusal]) -> None:
        self.path, self.config, self.faults = str(path), config, faults

    def check(self, field: str, value: Any, expected: str, remedy: str) -> None:
        """`field`, where it is there at all, must be `value`."""
        found = self.config.get(field, value)
        if found != value:
            self.faults.append(Refusal(self.path, field, shown(found), expected, remedy))

    def integer(self, field: str, most: int, default: int) -> int:
        """`field`, or `default` where it is not there."""
        value = self.config.get(field, default)
        if _is_count(value, most):
            return value
        expected, remedy = f"an integer from 1 to {most}", "restore the value used in training"
        self.faults.append(Refusal(self.path, field, shown(value), expected, remedy))
        return default

    def stride(self, override: int | None) -> int:
        """`override` where given, else `skip_token`, which has no default."""
        value = self.config.get("skip_token", "no such key") if override is None else override
        if _is_count(value, MAX_STRIDE):
            return value
        field = "skip_token" if override is None else "lmtp_stride, given instead of skip_token"
        expected = f"an integer from 1 to {MAX_STRIDE}"
        remedy = 'set it, or pass the stride as {"method": "lmtp", "lmtp_stride": 2}'
        self.faults.append(Refusal(self.path, field, shown(value), expected, remedy))
        return 1

    def vocabulary(self, folder: Path, mapped: bool, rows: int) -> tuple[int, int | None]:
        """V, and D where the heads draft from a vocabulary of their own.

        mapped: whether `heads.d2t` is there. rows: of the output matrices, 0 where unknown.
        """
        expected = f"{rows}, as in the head tensors"
        remedy = "restore config.json or the weights: they are of different models"
        if rows > MAX_VOCAB:
            where, field = str(folder), "heads.heads.*.lm_head.weight"
            most, again = f"at most {MAX_VOCAB}", "restore the weights of the training run"
            self.faults.append(Refusal(where, field, f"{rows} rows", most, again))
        if not mapped:
            if rows and "draft_vocab_size" in self.config:
                found = "no such tensor, but config.json states draft_vocab_size"
                wanted, remedy = "the map from draft to target tokens", "restore the missing shard"
                self.faults.append(Refusal(str(folder), D2T, found, wanted, remedy))
            elif rows:
                self.check("vocab_size", rows, expected, remedy)
            return rows, None
        if not rows:  # which was refused already
            return rows, rows
        self.check("draft_vocab_size", rows, expected, remedy)
        vocab_size = self.config.get("vocab_size", "no such key")
        if _is_count(vocab_size, MAX_VOCAB) and vocab_size >= rows:
            return vocab_size, rows
        expected = f"the target's vocabulary, of which the heads draft {rows} tokens"
        remedy = "set it to the vocab_size of the target that the heads were trained on"
        self.faults.append(Refusal(self.path, "vocab_size", shown(vocab_size), expected, remedy))
        return rows, rows


def _is_count(value: Any, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _head_tensors(folder: Path, faults: list[Refusal]) -> dict[str, TensorInfo]:
    """Every well-named `heads.*` tensor of the folder's safetensors files, by name.

    Empty when any file cannot be read, since nothing could then be said about the others.
    """
    try:
        headers = [read_header(file) for file in safetensors_files(folder)]
    except LMTPError as error:
        faults += error.refusals
        return {}
    found = [(n, info) for h in headers for n, info in h.items() if n.startswith(OUR_PREFIXES)]
    tensors: dict[str, TensorInfo] = {}
    for name, info in found:
        if name in tensors:
            copy = f"a second copy (the first is in {tensors[name].file.name})"
            remedy = "delete the stale shard, or save the checkpoint again"
            faults.append(Refusal(str(info.file), name, copy, "each tensor once", remedy))
        elif not is_known(name) and name not in SCORER_TENSORS:
            unknown = "a tensor this version does not know"
            remedy = "convert the checkpoint, or remove the tensor if it is a leftover"
            expected = f"{KNOWN_TENSORS}, and {', '.join(SCORER_TENSORS)}"
            faults.append(Refusal(str(info.file), name, unknown, expected, remedy))
        else:
            tensors[name] = info
    if not found:
        nothing = f"no such tensor in {len(headers)} safetensors file(s)"
        expected = "the leap heads (heads.heads.0.lm_head.weight, ...)"
        remedy = "give the folder that holds the heads; a merged or exported model has none"
        faults.append(Refusal(str(folder), "heads.*", nothing, expected, remedy))
    return tensors


def safetensors_files(folder: Path) -> list[Path]:
    """The folder's weight files: those its index names, or all where it has no index.

    Raises:
        LMTPError: there are none, or one of them, the index or config.json is a link that leaves
            the folder.
    """
    index = folder / INDEX_FILE
    files = _shards(index) if os.path.isfile(index) else sorted(folder.glob("*.safetensors"))
    if files:
        refuse_links_out(folder, [folder / CONFIG_FILE, index, *files])
        return files
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        found = f"only {', '.join(pickles)}, which could run code and is never opened"
        remedy = "save the model again with safe_serialization=True"
    else:
        found, remedy = "no weight file", "download the *.safetensors files of the checkpoint"
    raise refuse(str(folder), "weights", found=found, expected="safetensors files", remedy=remedy)


def _shards(index: Path) -> list[Path]:
    """The files an index names, each of which must lie beside it."""
    weight_map = read_json(index, remedy="download the index again").get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        found, remedy = shown(weight_map), "download the index again"
        expected = "a JSON object that maps tensor names to file names"
        raise refuse(str(index), "weight_map", found=found, expected=expected, remedy=remedy)
    files = {name: index.parent / name for name in sorted(set(names))}
    astray = [n for n, file in files.items() if Path(n).name != n or not os.path.isfile(file)]
    if astray:
        found = f"names of files that are not here: {', '.join(map(ascii, astray))}"
        expected, remedy = "every shard beside the index", "download the missing shards"
        raise refuse(str(index), "weight_map", found=found, expected=expected, remedy=remedy)
    return list(files.values())


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of one safetensors file; the bytes of the tensors stay on disk."""
    from safetensors import SafetensorError, safe_open

    try:
        if not os.path.isfile(file):  # to open a pipe would be to wait for ever
            raise OSError("no such file, or not a regular one")
        _check_header_size(file)
        with safe_open(str(file), framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            return {
                name: TensorInfo(file, tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        found = f"not a whole safetensors file ({error})"
        expected = "a safetensors file of the size its header states"
        remedy = "download or copy the file again; it is truncated or not safetensors"
        raise refuse(str(file), "content", found=found, expected=expected, remedy=remedy) from error


def _check_header_size(file: Path) -> None:
    """A header is read whole, and each of its tensors is looked at.

    Raises:
        ValueError: it states more than any model has.
    """
    with file.open("rb") as handle:
        stated = int.from_bytes(handle.read(8), "little")
    if stated > MAX_HEADER:
        raise ValueError(f"a header of {stated} bytes, and at most {MAX_HEADER} are read")
