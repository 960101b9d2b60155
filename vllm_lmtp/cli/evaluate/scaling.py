"""`vllm-lmtp eval scaling`: whether more training text would still help."""

from __future__ import annotations

import argparse
from pathlib import Path

from vllm_lmtp.cli.shared.output import add_json_flag, stdout_to_stderr
from vllm_lmtp.cli.shared.results import print_result, write_result


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the measurement `scaling`."""
    parser = commands.add_parser(
        "scaling", help="accuracy against the amount of training text, from training logs"
    )
    add = parser.add_argument
    add(
        "logs",
        nargs="+",
        type=_named_file,
        metavar="NAME=LOG",
        help="training_log.json of a run; runs that differ in their amount of text alone",
    )
    add("--output", type=Path, metavar="DIR", help="write JSON, Markdown and a picture here")
    add_json_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare the logs.

    Raises:
        LMTPError: a file is not the log of a run that trained heads, or nothing can be written.
    """
    with stdout_to_stderr():
        from vllm_lmtp.eval.offline import scaling
        from vllm_lmtp.eval.pages import report
        from vllm_lmtp.eval.provenance import provenance

        if args.output is not None:
            report.check_output(args.output)
        result = {
            "kind": "scaling",
            "provenance": provenance(args.words, 0),
            **scaling.measure([scaling.read_point(*log) for log in args.logs]),
        }
        write_result(result, args)
    print_result(result, args)
    return 0


def _named_file(word: str) -> tuple[str, Path]:
    name, equals, file = word.partition("=")
    if not (name and equals and file):
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=LOG")
    return name, Path(file)
