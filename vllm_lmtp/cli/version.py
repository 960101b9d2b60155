"""`vllm-lmtp --version`: this package, the vLLM that is installed, and the range it must lie in."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path

from vllm_lmtp import __version__
from vllm_lmtp.cli.shared.output import print_json
from vllm_lmtp.compat import SUPPORTED_VLLM

_LINE = re.compile(r"""^__version__\s*=[^'"]*['"](.+?)['"]""", re.MULTILINE)


def run(args: argparse.Namespace) -> int:
    """Print the versions."""
    vllm = installed_vllm()
    if args.json:
        print_json({"vllm_lmtp": __version__, "vllm": vllm, "supported_vllm": SUPPORTED_VLLM})
    else:
        found = vllm or "not installed"
        print(f"vllm-lmtp {__version__} (vLLM {found}; supported {SUPPORTED_VLLM})")
    return 0


def installed_vllm() -> str | None:
    """vLLM's version as its own file states it, without the seconds that importing vLLM takes.

    Distribution metadata would not do: CPU builds are distributed under another name.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("_version.py")
    match = _LINE.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    return match[1] if match else "of unknown version"
