"""vLLM's entry point (`vllm.general_plugins`: `lmtp`), called in every process vLLM starts.

vLLM only logs a plugin whose import fails and then goes on without it, so this module imports
nothing that could fail; the work is in the function.
"""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def register() -> None:
    """Register the patches. Idempotent; without lmtp in the configuration nothing else happens."""
    from vllm_lmtp import __version__, patches
    from vllm_lmtp.compat import is_supported, vllm_version

    version = vllm_version()
    patches.apply(version)
    logger.debug(
        "vllm-lmtp %s on vLLM %s (%s)",
        __version__,
        version,
        "supported" if is_supported(version) else "not supported: lmtp will be refused",
    )
