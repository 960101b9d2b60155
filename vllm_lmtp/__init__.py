"""vllm-lmtp: serve L-MTP (Leap Multi-Token Prediction) checkpoints with vLLM.

Importing this package imports neither torch nor vLLM, so that vLLM's plugin loader, which runs
in every process, pays nothing for it until L-MTP is asked for.
"""

from typing import Any

__version__ = "0.2.0"

METHOD = "lmtp"
"""The name of the speculative method, as users write it."""


def is_lmtp(speculative_config: Any) -> bool:
    """Whether a speculative config of vLLM's, None in plain decoding, is of this method."""
    return speculative_config is not None and speculative_config.method == METHOD
