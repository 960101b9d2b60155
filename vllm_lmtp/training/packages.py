"""What training needs beside this package, asked for before any time is spent."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from vllm_lmtp.errors import refuse

TRAINING = ("torch", "transformers", "accelerate", "matplotlib")


def check_installed(*names: str) -> None:
    """Refuse to begin without these packages.

    Raises:
        LMTPError: one of them cannot be found.
    """
    missing = [name for name in names if not find_spec(name)]
    if missing:
        raise refuse(
            "Python environment",
            "packages",
            found=f"no {', '.join(missing)}",
            expected="what training needs",
            remedy="pip install 'vllm-lmtp[train]'",
        )


def check_reporting(names: Sequence[str]) -> None:
    """Refuse services to report to that transformers does not know or find.

    Raises:
        LMTPError: one of them is so.
    """
    if not names:
        return
    from transformers.integrations import get_available_reporting_integrations

    there = get_available_reporting_integrations()
    if wrong := [name for name in names if name not in there]:
        raise refuse(
            "training",
            "report_to",
            found=", ".join(wrong),
            expected=f"one of those installed: {', '.join(there) or 'none is'}",
            remedy="install its package, or leave it out",
        )
