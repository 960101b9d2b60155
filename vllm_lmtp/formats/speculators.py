"""What a folder of heads states for `vllm serve FOLDER`: its target, in the form of speculators.

vLLM reads these fields itself (`maybe_override_with_speculators`) and serves the target that they
name, with the folder as its drafter. A stage-1 folder that has them is served with its own heads
whenever it is named, so it has them only where somebody asked for that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from vllm_lmtp.errors import Refusal, raise_refusals
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, HEAD_TYPE, is_lmtp_config, read_config
from vllm_lmtp.formats.files import causal_lm_class
from vllm_lmtp.method.leap import LeapSchedule

FIELD, KIND, LAYERS = "speculators_config", "speculators_model_type", "transformer_layer_config"
TARGET_FIELDS = (FIELD, KIND, LAYERS)
ITSELF = "."
"""The target of a folder that holds backbone and heads."""
CACHED = "models--"
"""What the folder of a model begins with in the hub's cache."""


def target_name(target: Path, folder: Path) -> str:
    """How a folder of heads names its target.

    Args:
        target: the target's folder. folder: where the heads will lie.

    Returns:
        The target's id, where its folder is the hub's copy of it; else the way from one folder to
        the other, so that both can move together.
    """
    if target.parent.name == "snapshots" and (name := target.parents[1].name).startswith(CACHED):
        return name.removeprefix(CACHED).replace("--", "/")
    way = os.path.relpath(os.path.realpath(target), os.path.realpath(folder))
    return way if way.startswith(".") else os.path.join(ITSELF, way)


def stated_target(target: Path, folder: Path, schedule: LeapSchedule) -> dict[str, Any]:
    """The fields of config.json that name a target which is at hand.

    Args:
        target: its folder, which may be a stage-1 one. folder: where the heads will lie. schedule:
            of the heads.

    Raises:
        LMTPError: the target's folder holds no readable config.json.
    """
    config = read_config(target)
    if is_lmtp_config(config):
        architectures = [causal_lm_class(target, config)]
    else:
        architectures = list(config.get("architectures") or [])
    return speculators_fields(target_name(target, folder), architectures, schedule)


def moved_target(
    config: Mapping[str, Any], folder: Path, copy: Path, schedule: LeapSchedule | None = None
) -> dict[str, Any]:
    """The fields of a copy of a folder, from what the folder states; none if it states nothing.

    Args:
        config: the folder's config.json. copy: where the copy will lie. schedule: of its heads,
            where these are not the folder's.

    Raises:
        LMTPError: what the folder states could not be served.
    """
    if FIELD not in config:
        return {}
    check_speculators(folder, config)
    verifier = config[FIELD]["verifier"]
    name = verifier["name_or_path"]
    if name.startswith(".") and name != ITSELF:
        name = target_name(folder / name, copy)
    stated = config[FIELD] | {"verifier": verifier | {"name_or_path": name}}
    if schedule is not None:
        stated["proposal_methods"] = [_proposal(schedule)]
    return {KIND: config[KIND], FIELD: stated, LAYERS: config[LAYERS]}


def speculators_fields(
    target: str, architectures: list[str], schedule: LeapSchedule
) -> dict[str, Any]:
    """The fields of config.json.

    Args:
        target: as `target_name` has it. architectures: the target's. schedule: of the heads.
    """
    return {
        KIND: HEAD_TYPE,
        FIELD: {
            "algorithm": HEAD_TYPE,
            "default_proposal_method": "greedy",
            "proposal_methods": [_proposal(schedule)],
            "verifier": {"name_or_path": target, "architectures": architectures},
        },
        # vLLM wants it there; leap heads have no transformer layer.
        LAYERS: {},
    }


def _proposal(schedule: LeapSchedule) -> dict[str, Any]:
    return {"proposal_type": "greedy", "speculative_tokens": schedule.max_drafts}


def check_speculators(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what vLLM could not read, naming what is missing.

    Args:
        config: the folder's config.json, which has `speculators_config`.

    Raises:
        LMTPError: all faults at once.
    """
    faults = []

    def want(field: str, value: Any, right: bool, expected: str) -> None:
        if not right:
            remedy = "state the target anew: vllm-lmtp convert --to heads --target TARGET"
            found = "no such key" if value is None else shown(value)
            faults.append(Refusal(str(folder / CONFIG_FILE), field, found, expected, remedy))

    kind, layers = config.get(KIND), config.get(LAYERS)
    want(KIND, kind, kind == HEAD_TYPE, repr(HEAD_TYPE))
    want(LAYERS, layers, isinstance(layers, dict), "an object, which may be empty")
    stated = config.get(FIELD)
    stated = stated if isinstance(stated, dict) else {}
    methods = stated.get("proposal_methods")
    first = methods[0] if isinstance(methods, list) and methods else None
    drafts = first.get("speculative_tokens") if isinstance(first, dict) else None
    where = f"{FIELD}.proposal_methods[0].speculative_tokens"
    want(where, drafts, isinstance(drafts, int) and drafts > 0, "the most tokens of a draft")
    verifier = stated.get("verifier")
    name = verifier.get("name_or_path") if isinstance(verifier, dict) else None
    expected = "the target's folder, relative to this one, or its Hugging Face id"
    want(f"{FIELD}.verifier.name_or_path", name, isinstance(name, str) and bool(name), expected)
    raise_refusals(faults)
