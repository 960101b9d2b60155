"""`vllm-lmtp convert`: between stage-1 and heads-only folders, and from Medusa heads."""

from __future__ import annotations

import argparse
import os

from vllm_lmtp.cli.shared.output import positive_argument, stdout_to_stderr
from vllm_lmtp.cli.shared.written import add_output_arguments, print_written


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `convert`."""
    parser = subparsers.add_parser(
        "convert", help="change a checkpoint's layout; Medusa heads", description=__doc__
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument(
        "--to",
        choices=("heads", "stage1"),
        help="heads: the heads of a stage-1 folder, or with --every or --first some heads of any "
        "folder, or with --target heads that name it, so that `vllm serve OUT` finds it; stage1: "
        "put heads and --target in one",
    )
    way.add_argument(
        "--from-medusa", action="store_true", help="IN holds Medusa heads; write heads only"
    )
    parser.add_argument("input", metavar="IN", help="a folder or a Hugging Face id")
    add_output_arguments(parser)
    parser.add_argument("--target", metavar="BASE", help="the plain model that the heads are for")
    parser.add_argument(
        "--alone",
        action="store_true",
        help="with --to stage1: `vllm serve OUT` alone drafts; it then cannot decode plainly",
    )
    parser.add_argument(
        "--every",
        type=positive_argument,
        metavar="K",
        help="every K-th head as a leap of K times the stride (default: all)",
    )
    parser.add_argument(
        "--first", type=positive_argument, metavar="N", help="with --to heads: N heads only"
    )
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Convert.

    Raises:
        LMTPError: the input cannot be converted so, or the output cannot be written.
    """
    if args.to == "stage1" and args.target is None:
        args.parser.error("--to stage1 needs --target")
    if args.alone and args.to != "stage1":
        args.parser.error("--alone goes with --to stage1")
    chosen = args.every is not None or args.first is not None
    if args.target is not None and (args.from_medusa or (args.to == "heads" and chosen)):
        args.parser.error("--target goes with --to stage1, or with --to heads of all heads")
    if args.every is not None and args.to == "stage1":
        args.parser.error("--every goes with --from-medusa or --to heads")
    if args.first is not None and args.to != "heads":
        args.parser.error("--first goes with --to heads")
    with stdout_to_stderr():
        from vllm_lmtp.formats.files import fetch
        from vllm_lmtp.tools.folders import choose, convert, medusa

        folder, output, overwrite = fetch(args.input), args.output, args.overwrite
        every = args.every or 1
        if args.from_medusa:
            written = medusa.from_medusa(folder, output, every=every, overwrite=overwrite)
        elif args.to == "heads" and (args.every or args.first):
            written = choose.choose_heads(
                folder, output, every=every, first=args.first, overwrite=overwrite
            )
        elif args.to == "heads":
            target = None if args.target is None else fetch(args.target)
            written = convert.to_heads(folder, output, target=target, overwrite=overwrite)
        else:
            base = fetch(args.target)
            # An id is worth keeping as the model's name; where a folder lay is not.
            is_folder = os.path.exists(os.path.expanduser(args.target))
            name = None if is_folder else args.target
            written = convert.to_stage1(
                folder, base, output, name=name, alone=args.alone, overwrite=overwrite
            )
    print_written(written, args.json)
    return 0
