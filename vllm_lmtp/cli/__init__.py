"""The command `vllm-lmtp`.

Importing it imports neither torch nor vLLM; each command imports what it needs when it runs. With
`--json` stdout carries one JSON value and nothing else. Exit codes: 0 done; 1 done, and the answer
is no (a problem found, outputs that differ); 2 refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vllm_lmtp.cli import (
    calibrate,
    convert,
    demo,
    distill,
    doctor,
    evaluate,
    export,
    heads,
    inspect,
    merge,
    patches,
    scorer,
    train,
    tune,
    version,
)
from vllm_lmtp.cli.shared.missing import refusal_of
from vllm_lmtp.cli.shared.output import add_json_flag, print_refusals
from vllm_lmtp.errors import LMTPError

COMMANDS = (
    inspect,
    doctor,
    demo,
    evaluate,
    tune,
    heads,
    distill,
    train,
    merge,
    export,
    convert,
    calibrate,
    scorer,
    patches,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command; `args.run` is the chosen command's function."""
    parser = argparse.ArgumentParser(
        prog="vllm-lmtp",
        description="Serve, measure and train L-MTP (Leap Multi-Token Prediction) checkpoints "
        "with vLLM.",
    )
    parser.add_argument(
        "--version", action="store_true", help="print this package's version and vLLM's, and stop"
    )
    add_json_flag(parser, default=False)
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the command's name; those of the process when left out.

    Returns:
        The exit code.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    args.words = sys.argv[1:] if argv is None else list(argv)  # for provenance
    if args.version:
        return version.run(args)
    if args.run is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code: int = args.run(args)
    except LMTPError as error:
        print_refusals(error, as_json=args.json)
        return 2
    except ModuleNotFoundError as error:
        print_refusals(refusal_of(error, args.command), as_json=args.json)
        return 2
    except KeyboardInterrupt:
        return 130
    return code
