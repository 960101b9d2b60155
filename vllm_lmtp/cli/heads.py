"""`vllm-lmtp heads`: make leap heads for a model, in a given time.

The model writes prompts of its own, answers them and those given, heads and a term are trained on
its answers, calibrated and judged. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from vllm_lmtp.cli.shared.output import (
    above_zero_argument,
    add_json_flag,
    print_json,
    print_table,
    stdout_to_stderr,
)

MINUTES = 60.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `heads`."""
    parser = subparsers.add_parser(
        "heads", help="make heads for a model, in a given time", description=__doc__
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="folder or Hugging Face id of a causal language model; smollm2 and gemma3-270m are "
        "fetched once",
    )
    add("output", type=Path, metavar="OUTPUT", help="the folder to write; it works in OUTPUT.work")
    add(
        "--minutes",
        type=above_zero_argument,
        default=MINUTES,
        metavar="N",
        help=f"to take in all (default {MINUTES:g})",
    )
    add(
        "--prompts",
        nargs="+",
        default=[],
        metavar="FILE",
        help='also answer these: JSON lines with "prompt", or "messages" as chat data has them; or '
        "the id of such a data set",
    )
    add(
        "--init",
        metavar="HEADS",
        help="go on from these heads, a folder or id, instead of the model's output matrix",
    )
    add(
        "--report-to",
        nargs="+",
        default=[],
        metavar="NAME",
        help="report training there: tensorboard, wandb, trackio, mlflow, where installed",
    )
    add_json_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make them, then print what they reach.

    Raises:
        LMTPError: the model, a file of prompts or the output is at fault, or a package is missing.
    """
    from vllm_lmtp.training.packages import TRAINING, check_installed, check_reporting

    with stdout_to_stderr():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        check_installed(*TRAINING, "datasets", "vllm")
        check_reporting(args.report_to)
        from vllm_lmtp.tools.recipe.make import make_heads

        report = make_heads(
            args.model, args.output, args.minutes, args.prompts, args.report_to, args.init
        )
    if args.json:
        print_json(report)
        return 0
    rows = [
        [temperature, f"{row['without a scorer']:.3f}", f"{row['with the term']:.3f}"]
        for temperature, row in report["tokens_a_step"].items()
    ]
    print_table(
        rows,
        ("temperature", "without a scorer", "with the term"),
        f"Tokens a step on held-out answers, after {report['seconds'] / 60:.1f} minutes",
    )
    print(
        f"vllm serve {args.model} --speculative-config "
        f'\'{{"method": "lmtp", "model": "{args.output}"}}\''
    )
    return 0
