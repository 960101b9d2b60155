"""Short names of the models that this package can prepare."""

from __future__ import annotations

import os

from vllm_lmtp.checkpoints import gemma3, smollm2
from vllm_lmtp.checkpoints.packaged import prepare

PACKAGED = {model.name: model for model in (smollm2.MODEL, gemma3.MODEL)}


def is_packaged(model: str) -> bool:
    """Whether this is such a name. A folder or file that is called so goes first."""
    return model in PACKAGED and not os.path.exists(model)


def folder_or_id(model: str) -> str:
    """The folder that a short name stands for, prepared; anything else as it is.

    Raises:
        LMTPError: as `packaged.prepare` says.
    """
    return str(prepare(PACKAGED[model])) if is_packaged(model) else model
