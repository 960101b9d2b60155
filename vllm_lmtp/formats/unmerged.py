"""A LoRA adapter where a checkpoint should be: the heads in it are differences, not weights.

Stage 2 saves an adapter of the backbone and of the heads' projections. vLLM would load it onto the
backbone of each request, while leap heads draft for all requests at once; so it is merged first.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from vllm_lmtp.errors import LMTPError, refuse
from vllm_lmtp.formats.json_file import read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"


def refuse_adapter(folder: Path) -> None:
    """Do nothing unless `folder` is an adapter instead of a model.

    Raises:
        LMTPError: it is; the remedy is the command that merges it.
    """
    files = [name for name in (ADAPTER_CONFIG, ADAPTER_FILE) if (folder / name).is_file()]
    if not files or (folder / "config.json").is_file():
        return
    output = f"{folder}-merged"
    command = shlex.join(["vllm-lmtp", "merge", _base(folder), str(folder), output])
    serve = shlex.join(["vllm", "serve", output, "--speculative-config", "lmtp"])
    raise refuse(
        str(folder),
        files[0],
        found="a LoRA adapter, which holds differences and no heads to draft with",
        expected="a stage-1 or heads-only folder",
        remedy=f"merge it into its stage-1 folder first: {command} and then: {serve}",
    )


def _base(folder: Path) -> str:
    """The stage-1 folder that the adapter says it was trained on, else a word in its place."""
    try:
        base = read_json(folder / ADAPTER_CONFIG, remedy="").get("base_model_name_or_path")
    except LMTPError:
        base = None
    return base if isinstance(base, str) and base else "STAGE1"
