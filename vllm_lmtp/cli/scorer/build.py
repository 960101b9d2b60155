"""`vllm-lmtp scorer build`: count a successor table, and write it into a copy of the heads."""

from __future__ import annotations

import argparse
from pathlib import Path

from vllm_lmtp.cli.scorer.texts import text_or_answers
from vllm_lmtp.cli.shared.output import (
    above_zero_argument,
    add_json_flag,
    positive_argument,
    stdout_to_stderr,
)
from vllm_lmtp.cli.shared.written import print_written

SIZE, WEIGHT, PSEUDO_COUNTS = 64, 0.8, 5.0


def add_word(words: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the word `build`."""
    build = words.add_parser("build", help="count one and write it into a copy of the heads")
    build.add_argument("checkpoint", metavar="CKPT", help="stage-1 or heads-only folder, or an id")
    source = build.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, metavar="FILE", help="count on this text")
    source.add_argument(
        "--dataset", type=Path, metavar="DIR", help="count on the answers that distill wrote"
    )
    build.add_argument(
        "--tokenizer", metavar="MODEL", help="with --text: of this model (default: CKPT's own)"
    )
    build.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the folder to write"
    )
    build.add_argument(
        "--size",
        type=positive_argument,
        default=SIZE,
        metavar="K",
        help=f"successors kept for each token (default {SIZE})",
    )
    build.add_argument(
        "--weight",
        type=above_zero_argument,
        default=WEIGHT,
        help=f"of the ratios (default {WEIGHT})",
    )
    build.add_argument(
        "--pseudo-counts",
        type=above_zero_argument,
        default=PSEUDO_COUNTS,
        metavar="A",
        help=f"of the unigram, which tame rare pairs (default {PSEUDO_COUNTS:g})",
    )
    build.add_argument(
        "--overwrite", action="store_true", help="replace DIR where it holds a model already"
    )
    add_json_flag(build)
    build.set_defaults(run=_run, parser=build)


def _run(args: argparse.Namespace) -> int:
    """Build the table.

    Raises:
        LMTPError: heads, text or dataset cannot be read, or the output cannot be written.
    """
    if args.tokenizer is not None and args.text is None:
        args.parser.error("--tokenizer goes with --text")
    with stdout_to_stderr():
        from vllm_lmtp.formats.files import fetch
        from vllm_lmtp.tools.scorers.scorer import build_table

        folder = fetch(args.checkpoint)
        source, passages = text_or_answers(args, folder)
        written = build_table(
            folder,
            args.output,
            passages,
            size=args.size,
            weight=args.weight,
            pseudo_counts=args.pseudo_counts,
            source=source.resolve().name,
            overwrite=args.overwrite,
        )
    print_written(written, args.json)
    return 0
