"""Which heads are compared, and how each is served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp import METHOD
from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_checkpoint
from vllm_lmtp.formats.hub import resolve_folder

WHOLE = {"lmtp_draft_length": "fixed"}
"""Drafts as long as they can be, whatever they cost."""


@dataclass(frozen=True)
class Variant:
    """One way of drafting. name: in the results. heads: folder or id; None for the target's own.
    checkpoint: those heads. options: of the speculative config, beside method and model."""

    name: str
    heads: str | None
    checkpoint: HeadsCheckpoint
    options: dict[str, Any]

    @property
    def speculative_config(self) -> dict[str, Any]:
        """As vLLM takes it."""
        heads = {} if self.heads is None else {"model": self.heads}
        return {"method": METHOD, **heads, **self.options}

    @property
    def whole_drafts(self) -> dict[str, Any]:
        """The same with drafts as long as they can be at every step, which is how acceptance is
        measured, unless an option says otherwise."""
        return {**WHOLE, **self.speculative_config}

    @property
    def _scorer(self) -> str:
        """The kind of scorer that is served."""
        scorer = self.checkpoint.scorer
        if scorer is None or self.options.get("lmtp_scorer") == "none":
            return "none"
        return scorer.kind

    def facts(self) -> dict[str, Any]:
        """What a report says about the heads: by name, no path of this machine."""
        checkpoint = self.checkpoint
        files = {info.file for info in checkpoint.tensors.values()}
        return {
            "name": self.name,
            "folder": checkpoint.path.resolve().name,
            "n_heads": checkpoint.schedule.n_heads,
            "stride": checkpoint.schedule.stride,
            "draft_vocabulary": checkpoint.draft_vocab_size,
            "vocabulary": checkpoint.vocab_size,
            "scorer": self._scorer,
            "weight_bytes": {file.name: file.stat().st_size for file in sorted(files)},
            "options": self.options,
        }


def read_variants(
    heads: Sequence[str], model: str, scorers: Sequence[str] = (), options: Sequence[str] = ()
) -> list[Variant]:
    """Every folder with every scorer.

    Args:
        heads: NAME=DIR, or DIR; none for the model's own heads.
        scorers: values of `lmtp_scorer`; none leaves it to the checkpoint.
        options: KEY=VALUE for the speculative config of all of them.

    Raises:
        LMTPError: a name is given twice, an option is not KEY=VALUE, or heads cannot be read.
    """
    common = dict(_option(word) for word in options)
    found = []
    for name, folder in _names(heads, model).items():
        checkpoint = read_checkpoint(resolve_folder(folder or model))
        if not scorers:
            found.append(Variant(name, folder, checkpoint, common))
        for scorer in scorers:
            label = name if len(scorers) == 1 else f"{name}, {scorer}"
            served = common | {"lmtp_scorer": scorer}
            found.append(Variant(label, folder, checkpoint, served))
    return found


def _names(words: Sequence[str], model: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals:
            name, folder = Path(word).name, word
        if name in found or not name or not folder:
            raise refuse(
                "--heads",
                "name",
                found=repr(word),
                expected="NAME=DIR, each name once",
                remedy="give each folder a name of its own",
            )
        found[name] = folder
    return found or {Path(model).resolve().name: None}


def _option(word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise refuse(
            "--option",
            "value",
            found=repr(word),
            expected="KEY=VALUE, such as num_speculative_tokens=2",
            remedy="write it so",
        )
    try:
        return key, json.loads(text)
    except ValueError:
        return key, text
