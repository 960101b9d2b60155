"""`vllm-lmtp export`: a stage-1 folder without its heads, as a plain next-token model."""

from __future__ import annotations

import argparse

from vllm_lmtp.cli.shared.output import stdout_to_stderr
from vllm_lmtp.cli.shared.written import add_output_arguments, print_written


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `export`."""
    parser = subparsers.add_parser(
        "export", help="drop the heads: write a plain model", description=__doc__
    )
    parser.add_argument("stage1", metavar="STAGE1", help="stage-1 folder or Hugging Face id")
    add_output_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export.

    Raises:
        LMTPError: the folder cannot be exported, or the output cannot be written.
    """
    with stdout_to_stderr():
        from vllm_lmtp.formats.files import fetch
        from vllm_lmtp.tools.folders.export import export

        written = export(fetch(args.stage1), args.output, overwrite=args.overwrite)
    print_written(written, args.json)
    return 0
