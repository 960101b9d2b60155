"""`vllm-lmtp scorer shrink`: write a copy of heads whose term has a lower rank."""

from __future__ import annotations

import argparse
from pathlib import Path

from vllm_lmtp.cli.shared.output import add_json_flag, positive_argument, stdout_to_stderr
from vllm_lmtp.cli.shared.written import print_written


def add_word(words: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the word `shrink`."""
    shrink = words.add_parser("shrink", help="write a copy of heads whose term has a lower rank")
    shrink.add_argument("checkpoint", metavar="CKPT", help="stage-1 or heads-only folder, or an id")
    shrink.add_argument(
        "--rank", type=positive_argument, required=True, metavar="R", help="of the new Markov term"
    )
    shrink.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the folder to write"
    )
    shrink.add_argument(
        "--overwrite", action="store_true", help="replace DIR where it holds a model already"
    )
    add_json_flag(shrink)
    shrink.set_defaults(run=_run, parser=shrink)


def _run(args: argparse.Namespace) -> int:
    """Shrink the term.

    Raises:
        LMTPError: a folder without such a term, or the output cannot be written.
    """
    with stdout_to_stderr():
        from vllm_lmtp.formats.files import fetch
        from vllm_lmtp.tools.scorers.low_rank import shrink_term

        folder = fetch(args.checkpoint)
        written = shrink_term(folder, args.output, args.rank, overwrite=args.overwrite)
    print_written(written, args.json)
    return 0
