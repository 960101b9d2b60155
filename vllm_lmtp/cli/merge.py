"""`vllm-lmtp merge`: a stage-1 folder and a LoRA adapter (stage 2) as one folder to serve."""

from __future__ import annotations

import argparse
from pathlib import Path

from vllm_lmtp.cli.shared.output import stdout_to_stderr
from vllm_lmtp.cli.shared.written import add_output_arguments, print_written


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `merge`."""
    parser = subparsers.add_parser(
        "merge", help="merge a LoRA adapter into backbone and heads", description=__doc__
    )
    parser.add_argument("stage1", metavar="STAGE1", help="stage-1 folder or Hugging Face id")
    parser.add_argument(
        "adapter", type=Path, metavar="ADAPTER", help="folder that peft saved the adapter to"
    )
    add_output_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Merge.

    Raises:
        LMTPError: adapter and folder do not fit each other, or the output cannot be written.
    """
    with stdout_to_stderr():
        from vllm_lmtp.formats.files import fetch
        from vllm_lmtp.tools.folders.merge import merge

        written = merge(fetch(args.stage1), args.adapter, args.output, overwrite=args.overwrite)
    print_written(written, args.json)
    return 0
