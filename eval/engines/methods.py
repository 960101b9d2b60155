"""The methods whose speed is compared, each as vLLM is told of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vllm_lmtp import METHOD
from vllm_lmtp.errors import refuse
from vllm_lmtp.eval.engines.variants import Variant
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, read_config
from vllm_lmtp.formats.hub import resolve_folder

PLAIN = "plain"
NGRAM_TOKENS = 5
"""Draft tokens of the methods that look text up, as in vLLM's own examples; suffix decides."""


@dataclass(frozen=True)
class Method:
    """name: in the results. speculative_config: as vLLM takes it, None for plain decoding.
    why_not: why it cannot be measured here, None where it can."""

    name: str
    speculative_config: dict[str, Any] | None = None
    why_not: str | None = None

    @property
    def drafter(self) -> str | None:
        """The model that drafts, if it has a cache of its own; leap heads have none."""
        config = self.speculative_config or {}
        return None if config.get("method") == METHOD else config.get("model")

    def facts(self) -> dict[str, Any]:
        """What a report says: folders of this machine by their names."""
        config = self.speculative_config
        if config is None:
            return {"name": self.name, "speculative_config": None}
        shown = {
            key: Path(value).name if key == "model" and Path(str(value)).is_absolute() else value
            for key, value in config.items()
        }
        return {"name": self.name, "speculative_config": shown}

    def stamp(self) -> dict[str, Any]:
        """What its numbers depend on: the configuration, and the files of the drafter."""
        model = (self.speculative_config or {}).get("model")
        return {"config": self.speculative_config, "files": stamp_of(model)}


def stamp_of(folder: str | None) -> list[list[Any]]:
    """Weights and configuration of a model with size and time; none for what is no folder here."""
    if folder is None or not Path(folder).is_dir():
        return []
    files = sorted([*Path(folder).glob("*.safetensors"), *Path(folder).glob(CONFIG_FILE)])
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def builtin_methods(variants: Sequence[Variant]) -> list[Method]:
    """Plain decoding, leap heads as served by default and in whole drafts with each scorer that
    their folder has, and looking text up."""
    methods = [Method(PLAIN)]
    for variant in variants:
        name = METHOD if len(variants) == 1 else f"{METHOD} {variant.name}"
        methods.append(Method(name, variant.speculative_config))
        scorer = variant.checkpoint.scorer
        for kind in ("none", *([] if scorer is None else [scorer.kind])):
            config = variant.whole_drafts | {"lmtp_scorer": kind}
            methods.append(Method(f"{name}, whole drafts, scorer {kind}", config))
    lookup = {"num_speculative_tokens": NGRAM_TOKENS, "prompt_lookup_max": 4}
    methods.append(Method("ngram", {"method": "ngram", **lookup, "prompt_lookup_min": 2}))
    missing = None if find_spec("arctic_inference") else "arctic-inference is not installed"
    # Loads share prompts. Answers it remembers would be the very ones asked for again.
    forgetful = {"method": "suffix", "suffix_decoding_max_cached_requests": 0}
    methods.append(Method("suffix", forgetful, missing))
    return methods


def drafting_model(path: str, num_tokens: int) -> Method:
    """A small model of the same vocabulary that drafts."""
    config = {"method": "draft_model", "model": path, "num_speculative_tokens": num_tokens}
    return Method("draft_model", config)


def eagle(path: str, num_tokens: int) -> Method:
    """An EAGLE or EAGLE-3 checkpoint, told apart by its architecture.

    Raises:
        LMTPError: the folder has no readable config.json.
    """
    architectures = read_config(resolve_folder(path)).get("architectures") or [""]
    method = "eagle3" if "eagle3" in f"{architectures[0]} {path}".lower() else "eagle"
    return Method(method, {"method": method, "model": path, "num_speculative_tokens": num_tokens})


def configured(file: Path) -> Method:
    """A configuration of `vllm serve`, as `vllm-lmtp tune` writes it.

    Raises:
        LMTPError: it cannot be read, or its speculative config is not one.
    """
    import yaml

    name = f"configuration {file.name}"
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = given.get("speculative-config", given.get("speculative_config"))
        config = json.loads(found) if isinstance(found, str) and found != METHOD else found
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise refuse(
            str(file),
            "content",
            found=f"unreadable ({error})",
            expected="a YAML file as `vllm serve --config` takes it",
            remedy="give the file that `vllm-lmtp tune` wrote",
        ) from error
    if config is None:
        return Method(name, None, "it does not speculate, so it is plain decoding")
    if config == METHOD:
        config = {"method": METHOD}
    if not isinstance(config, Mapping):
        raise refuse(
            str(file),
            "speculative-config",
            found=repr(config),
            expected="a JSON object",
            remedy="give the file that `vllm-lmtp tune` wrote",
        )
    return Method(name, dict(config))


def named(word: str) -> Method:
    """NAME=JSON, any speculative config.

    Raises:
        LMTPError: it is not that.
    """
    name, _, text = word.partition("=")
    try:
        config = json.loads(text)
    except ValueError:
        config = None
    if not name or not isinstance(config, dict):
        raise refuse(
            "--method",
            "value",
            found=repr(word),
            expected='NAME=JSON, such as x={"method": "ngram", "num_speculative_tokens": 3}',
            remedy="write it so",
        )
    return Method(name, config)


def check_names(methods: Sequence[Method]) -> None:
    """Raises:
    LMTPError: two methods have one name.
    """
    names = [method.name for method in methods]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise refuse(
            "--method",
            "name",
            found=f"{twice[0]!r} twice",
            expected="each name once",
            remedy="give another name",
        )
