"""`vllm serve HEADS`: what a folder of heads says of its target, where vLLM has read it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_lmtp import METHOD
from vllm_lmtp.errors import LMTPError, refuse
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, is_lmtp_config, is_stage1_config, read_config
from vllm_lmtp.formats.speculators import FIELD, check_speculators

LENGTH = "num_speculative_tokens"
Resolved = tuple[str, str | None, Any]
"""Target, tokenizer and speculative config, as vLLM reads them from a folder."""


def check(model: str) -> None:
    """Refuse, before vLLM does so less clearly, a folder of heads that cannot be served alone.

    Args:
        model: what `vllm serve` was given.

    Raises:
        LMTPError: heads without a backbone that name no target, or name it wrongly.
    """
    folder = Path(os.path.expanduser(model))
    config = _config(folder)
    if config is None or not is_lmtp_config(config):
        return
    if FIELD in config:
        check_speculators(folder, config)
    elif not is_stage1_config(config):
        raise refuse(
            str(folder / CONFIG_FILE),
            FIELD,
            found="no such key, and no backbone beside the heads",
            expected="the target that these heads draft for",
            remedy="serve the target with "
            f'--speculative-config \'{{"method": "{METHOD}", "model": "{model}"}}\', or state it: '
            "vllm-lmtp convert --to heads --target TARGET",
        )


def resolve(heads: str, given: Any, found: Resolved) -> Resolved:
    """What vLLM should serve.

    Args:
        heads: the folder, or id, that vLLM was given as its model.
        given: the user's own speculative config.
        found: what vLLM read from the folder.

    Returns:
        The same with a target relative to the folder made a path, and with the draft length left to
        be found while serving where the user set none: the folder states how many a draft can have.

    Raises:
        LMTPError: the target is relative to the folder and not there.
    """
    target, tokenizer, config = found
    if not isinstance(config, dict) or config.get("method") != METHOD:
        return found
    users: Mapping[str, Any] = given if isinstance(given, dict) else {}
    if LENGTH not in users:
        config = {key: value for key, value in config.items() if key != LENGTH}
    if not target.startswith("."):
        return target, tokenizer, config
    folder = Path(os.path.expanduser(heads))
    path = os.path.normpath(folder / target)
    if not os.path.isdir(path):
        raise refuse(
            str(folder / CONFIG_FILE),
            f"{FIELD}.verifier.name_or_path",
            found=f"{target!r}, where no folder is",
            expected="the target's folder, relative to this one, or its Hugging Face id",
            remedy="move the target there, or state where it is: "
            "vllm-lmtp convert --to heads --target TARGET",
        )
    return path, path, config


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        return read_config(folder)
    except LMTPError:
        return None
