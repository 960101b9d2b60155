"""Where a measuring command's result goes: to files if asked for, and to stdout."""

from __future__ import annotations

import argparse
from typing import Any

from vllm_lmtp.cli.shared.output import print_json, print_progress


def write_result(result: dict[str, Any], args: argparse.Namespace) -> None:
    """Write JSON, Markdown and pictures to `args.output`, if there is one.

    Raises:
        LMTPError: they cannot be written.
    """
    from vllm_lmtp.eval.pages import report

    if args.output is not None:
        for file in report.save(result, args.output):
            print_progress(f"wrote {file}")


def print_result(result: dict[str, Any], args: argparse.Namespace) -> None:
    """Write it to stdout, as JSON with `args.json` and for a reader without."""
    from vllm_lmtp.eval.pages import report

    if args.json:
        print_json(result)
    else:
        print(report.render(result))
