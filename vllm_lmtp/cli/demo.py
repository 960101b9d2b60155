"""`vllm-lmtp demo`: the same prompts with and without leap heads, side by side."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from vllm_lmtp.cli.engines import prepare_environment
from vllm_lmtp.cli.output import (
    add_json_flag,
    positive_argument,
    print_json,
    stdout_to_stderr,
    stride_argument,
)
from vllm_lmtp.tools.openings import OPENINGS

EMBEDDED = Path(__file__).parents[1] / "checkpoints" / "tiny"
DTYPES = ("float32", "bfloat16", "float16", "auto")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `demo`."""
    parser = subparsers.add_parser(
        "demo", help="compare plain decoding and L-MTP on this machine", description=__doc__
    )
    add = parser.add_argument
    add("--model", metavar="PATH", help="stage-1 folder or id; the embedded one when left out")
    add("--heads", metavar="PATH", help="heads-only folder or id, where --model has no heads")
    add("--stride", type=stride_argument, metavar="K", help="instead of the stated skip_token")
    add(
        "--prompts",
        type=positive_argument,
        default=len(OPENINGS),
        metavar="N",
        help=f"how many of the {len(OPENINGS)} prompts (default: all)",
    )
    add("--max-tokens", type=positive_argument, default=96, metavar="N", help="default: 96")
    add("--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy")
    add("--dtype", choices=DTYPES, default="float32", help="default: float32")
    add("--rounds", type=positive_argument, default=3, metavar="N", help="timed rounds; default: 3")
    add(
        "--threads",
        type=positive_argument,
        default=1,
        metavar="N",
        help="CPU threads; default: 1, as the embedded model is too small to gain from more",
    )
    add_json_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo. Returns 1 when greedy float32 outputs differ, which must never happen.

    Raises:
        LMTPError: the checkpoint cannot be served.
    """
    model = args.model or str(EMBEDDED)
    prepare_environment(args.threads)
    with stdout_to_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm_lmtp.cli.compare import compare

        result = compare(
            model,
            heads=args.heads,
            stride=args.stride,
            num_prompts=min(args.prompts, len(OPENINGS)),
            max_tokens=args.max_tokens,
            temperature=args.temperature,
            dtype=args.dtype,
            rounds=args.rounds,
        )
    if args.json:
        print_json(result)
    else:
        from vllm_lmtp.cli.demo_report import print_report

        print_report(result)
    return 1 if result["must_be_identical"] and not result["identical"] else 0
