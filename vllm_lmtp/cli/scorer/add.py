"""`vllm-lmtp scorer add`: write the scorer of another folder into a copy of heads."""

from __future__ import annotations

import argparse
from pathlib import Path

from vllm_lmtp.cli.shared.output import add_json_flag, stdout_to_stderr
from vllm_lmtp.cli.shared.written import print_written


def add_word(words: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the word `add`."""
    add = words.add_parser("add", help="write the scorer of another folder into a copy of heads")
    add.add_argument("checkpoint", metavar="CKPT", help="stage-1 or heads-only folder, or an id")
    add.add_argument(
        "--from", dest="donor", required=True, metavar="DIR", help="heads that have the scorer"
    )
    add.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the folder to write"
    )
    add.add_argument(
        "--overwrite", action="store_true", help="replace DIR where it holds a model already"
    )
    add_json_flag(add)
    add.set_defaults(run=_run, parser=add)


def _run(args: argparse.Namespace) -> int:
    """Add the scorer.

    Raises:
        LMTPError: a folder cannot be read, or the two do not fit together.
    """
    with stdout_to_stderr():
        from vllm_lmtp.formats.files import fetch
        from vllm_lmtp.tools.scorers.scorer import add_scorer

        written = add_scorer(
            fetch(args.checkpoint), fetch(args.donor), args.output, overwrite=args.overwrite
        )
    print_written(written, args.json)
    return 0
