"""Reading a model folder tensor by tensor: config.json, one or many safetensors files, the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_lmtp.errors import Refusal, raise_refusals, refuse
from vllm_lmtp.formats.checkpoint import (
    CONFIG_FILE,
    INDEX_FILE,
    read_config,
    read_header,
    safetensors_files,
)
from vllm_lmtp.formats.hub import WANTED_FILES, resolve_folder
from vllm_lmtp.formats.inside import refuse_links_out
from vllm_lmtp.formats.tensors import OUR_PREFIXES, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
# What a model needs beside its weights. Never code; and no README, whose numbers would be stale.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.jinja",
    "generation_config.json",
    *LICENCES,
)


@dataclass(frozen=True)
class Entry:
    """One tensor of a file to be written: safetensors' name of its dtype, its shape, and a function
    that makes it when its turn comes."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Weights:
    """The tensors of a folder by name, still on disk.

    folder: where they lie. tensors: file, shape and dtype of each.
    """

    folder: Path
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> Tensor:
        """One tensor, as stored.

        Raises:
            LMTPError: the file cannot be read any more.
        """
        return read_tensor(self.tensors[name].file, name)

    def entry(self, name: str) -> Entry:
        """One tensor, to be copied as it is."""
        info = self.tensors[name]
        return Entry(info.dtype, info.shape, lambda: self.read(name))

    def heads(self) -> Iterator[str]:
        """Names of the leap heads' tensors, and of their scorer's."""
        return (name for name in self.tensors if name.startswith(OUR_PREFIXES))

    def backbone(self) -> Iterator[str]:
        """Names of all other tensors."""
        return (name for name in self.tensors if not name.startswith(OUR_PREFIXES))


def fetch(model: str) -> Path:
    """The local folder of `model`, a path or a Hugging Face id, with the tokenizer's files.

    Raises:
        LMTPError: neither exists, or the id cannot be fetched.
    """
    folder = resolve_folder(model)
    if not os.path.exists(os.path.expanduser(model)):
        from huggingface_hub import snapshot_download

        # The heads alone need no tokenizer, so the line above leaves it out.
        return Path(snapshot_download(model, allow_patterns=[*WANTED_FILES, *COMPANIONS]))
    return folder


def read_folder(folder: Path) -> tuple[dict[str, Any], Weights]:
    """The config.json of a folder and its tensors.

    Raises:
        LMTPError: no such folder, no config.json, no safetensors files, or not whole ones.
    """
    return read_config(folder), read_weights(folder)


def read_weights(folder: Path) -> Weights:
    """The tensors of a folder, sharded or not, from the headers of its files.

    Raises:
        LMTPError: a file is missing or not whole, a tensor is there twice, or the index names a
            tensor that its file does not hold.
    """
    tensors: dict[str, TensorInfo] = {}
    faults = []
    for file in safetensors_files(folder):
        for name, info in read_header(file).items():
            if name in tensors:
                copy = f"a second copy (the first is in {tensors[name].file.name})"
                remedy = "delete the stale shard, or save the checkpoint again"
                faults.append(Refusal(str(file), name, copy, "each tensor once", remedy))
            tensors[name] = info
    index = folder / INDEX_FILE
    if index.is_file():
        stated: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        for name, shard in stated.items():
            if name not in tensors or tensors[name].file.name != shard:
                found, remedy = f"no such tensor in {shard}", "download that shard again"
                faults.append(Refusal(str(index), name, found, "every tensor it names", remedy))
    raise_refusals(faults)
    return Weights(folder, tensors)


def read_tensor(file: Path, name: str) -> Tensor:
    """One tensor of one file.

    Raises:
        LMTPError: the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as handle:
            return handle.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise refuse(
            str(file),
            name,
            found=f"unreadable ({error})",
            expected="the tensor that the file's header states",
            remedy="download or copy the file again",
        ) from error


def companions(folder: Path, patterns: tuple[str, ...] = COMPANIONS) -> list[Path]:
    """The files of a folder that belong to its model beside config.json and weights.

    Raises:
        LMTPError: one of them is a link that leaves the folder.
    """
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    refuse_links_out(folder, sorted(found))
    return sorted(found)


def causal_lm_class(folder: Path, config: Mapping[str, Any]) -> str:
    """The plain architecture of a text backbone, such as "LlamaForCausalLM".

    Raises:
        LMTPError: transformers knows no causal language model of the config's model_type.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        name: str = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        return name
    raise refuse(
        str(folder / CONFIG_FILE),
        "model_type",
        found=repr(config.get("model_type", "no such key")),
        expected="the backbone's type, such as 'llama', 'qwen2' or 'gemma3_text'",
        remedy="set it to the type of the model that the heads were trained on",
    )


def is_tied(folder: Path) -> bool:
    """Whether a model's output matrix is its embeddings; the model's own default where unsaid.

    Raises:
        LMTPError: transformers cannot read the config.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        raise refuse(
            str(folder / CONFIG_FILE),
            "content",
            found=f"transformers cannot read it ({str(error).splitlines()[0]})",
            expected="the configuration of a language model",
            remedy="restore the file from the training run",
        ) from error
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", True))
