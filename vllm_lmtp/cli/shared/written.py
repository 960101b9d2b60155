"""What the commands that write a folder share: its arguments and the report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_lmtp.cli.shared.output import add_json_flag, print_json

if TYPE_CHECKING:
    from vllm_lmtp.tools.folders.save import Written


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add OUT, `--overwrite` and `--json`."""
    parser.add_argument("output", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace OUT where it holds a model already"
    )
    add_json_flag(parser)


def print_written(written: Written, as_json: bool) -> None:
    """Say on stdout what was written."""
    report = written.report()
    if as_json:
        print_json(report)
        return
    for name, value in report.items():
        print(f"{name:<24} {value}")
