"""From what a user typed to a folder on this machine.

A local folder is used as it is; anything else must be a Hugging Face id, of which only config.json
and safetensors files are fetched. Each node resolves for itself, so a node that lacks the heads is
the one that says so.
"""

from __future__ import annotations

import os
from pathlib import Path

from vllm_lmtp.errors import refuse

WANTED_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json"]


def resolve_folder(model: str, revision: str | None = None, cache_dir: str | None = None) -> Path:
    """The local folder of `model`, a path or a Hugging Face id.

    Raises:
        LMTPError: neither exists, or the id cannot be fetched.
    """
    path = os.path.expanduser(model)  # unlike Path's, these two never raise
    if os.path.exists(path):
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(
                model, revision=revision, cache_dir=cache_dir, allow_patterns=WANTED_FILES
            )
        )
    except HFValidationError as error:
        raise refuse(
            model,
            "path",
            found="nothing there",
            expected="a checkpoint folder or a Hugging Face id",
            remedy="check the path for a typing error",
        ) from error
    except Exception as error:  # the hub raises a wide family of network and cache errors
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise refuse(
            model,
            "path",
            found=f"no such folder, and as a Hugging Face id: {reason}",
            expected="a checkpoint folder, or an id that this machine can fetch or has cached",
            remedy="check the spelling and the network (HF_HUB_OFFLINE, HF_TOKEN), or download it",
        ) from error
