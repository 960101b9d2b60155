"""Writing a heads-only folder: heads, draft vocabulary and term, as docs/checkpoints.md has
them.

Two weight files: the output matrices, which are nearly all of the bytes, and everything else. A
term that is trained afterwards leaves the large file as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vllm_lmtp.formats.checkpoint import ARCHITECTURE, CONFIG_FILE, HEAD_TYPE, INDEX_FILE
from vllm_lmtp.formats.int8 import quantise_rows
from vllm_lmtp.formats.scorer_tensors import (
    CARRY,
    EMBED,
    MARKOV,
    OUTPUT,
    RECURRENT,
    START,
    tensor_name,
)
from vllm_lmtp.formats.whole import write_json
from vllm_lmtp.training.data.draft_vocab import DraftVocab
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.markov import MarkovTerm
from vllm_lmtp.training.model.recurrent import RecurrentTerm
from vllm_lmtp.training.settings.stages import HeadsConfig

OUTPUTS_FILE = "model-00001-of-00002.safetensors"
REST_FILE = "model-00002-of-00002.safetensors"


def write_heads(
    folder: Path,
    heads: LeapHeads,
    config: HeadsConfig,
    vocab: DraftVocab,
    term: MarkovTerm | None,
    *,
    int8: bool,
    fields: dict[str, Any],
    term_facts: dict[str, Any],
) -> None:
    """Write weights, index and config.json to an empty folder.

    Args:
        fields: further fields of config.json, such as model_name. term_facts: where the term is
            from, for the scorer's entry there.
    """
    outputs = output_tensors(heads, int8)
    rest = other_tensors(heads, vocab, term, int8)
    for name, tensors in ((OUTPUTS_FILE, outputs), (REST_FILE, rest)):
        save_file(tensors, folder / name, metadata={"format": "pt"})
    size = sum(t.numel() * t.element_size() for t in (*outputs.values(), *rest.values()))
    places = dict.fromkeys(outputs, OUTPUTS_FILE) | dict.fromkeys(rest, REST_FILE)
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": places})
    content = {
        "architectures": [ARCHITECTURE],
        "n_head": config.n_head,
        "head_num_layers": 1,
        "head_type": HEAD_TYPE,
        "skip_token": config.skip_token,
        "hidden_size": heads[0].lm_head.in_features,
        "vocab_size": vocab.vocab_size,
    }
    if len(vocab) < vocab.vocab_size:
        content["draft_vocab_size"] = len(vocab)
    if term is not None:
        content["scorer"] = {"kind": _kind(term), "rank": term.embed.shape[1], **term_facts}
    write_json(folder / CONFIG_FILE, content | fields)


def output_tensors(heads: LeapHeads, int8: bool) -> dict[str, Tensor]:
    """The heads' output matrices by their names on disk: bfloat16, or int8 with scales."""
    tensors: dict[str, Tensor] = {}
    for i in range(len(heads)):
        tensors |= _matrix(f"heads.heads.{i}.lm_head.weight", heads[i].lm_head.weight, int8)
    return tensors


def other_tensors(
    heads: LeapHeads, vocab: DraftVocab, term: MarkovTerm | None, int8: bool
) -> dict[str, Tensor]:
    """Residual blocks, the map of the draft vocabulary, and the term."""
    tensors = {
        f"heads.{name}": _bfloat16(value)
        for name, value in heads.state_dict().items()
        if not name.endswith("lm_head.weight")
    }
    if len(vocab) < vocab.vocab_size:
        tensors["heads.d2t"] = vocab.d2t.contiguous()
    if term is not None:
        tensors |= _matrix(tensor_name(_kind(term), EMBED), term.embed, int8)
        tensors |= _matrix(tensor_name(_kind(term), OUTPUT), term.output, int8)
    if isinstance(term, RecurrentTerm):
        tensors[tensor_name(RECURRENT, START)] = _bfloat16(term.start)
        tensors[tensor_name(RECURRENT, CARRY)] = _bfloat16(term.carry)
    return tensors


def _kind(term: MarkovTerm) -> str:
    return RECURRENT if isinstance(term, RecurrentTerm) else MARKOV


def _matrix(name: str, value: Tensor, int8: bool) -> dict[str, Tensor]:
    if not int8:
        return {name: _bfloat16(value)}
    # ...lm_head.weight has ...lm_head.scale beside it, any other name has <name>_scale.
    base, _, last = name.rpartition(".")
    scale_name = f"{base}.scale" if last == "weight" else f"{name}_scale"
    values, scale = quantise_rows(value.cpu())
    return {name: values.contiguous(), scale_name: scale.contiguous()}


def _bfloat16(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.bfloat16, copy=True).contiguous()
