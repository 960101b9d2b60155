"""`vllm-lmtp eval exact`: answers against plain decoding's by the million tokens, under churn."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from vllm_lmtp.cli.shared.arguments import (
    add_model_arguments,
    add_option_argument,
    add_run_arguments,
)
from vllm_lmtp.cli.shared.measuring import resolve_model, shown_model
from vllm_lmtp.cli.shared.output import positive_argument, print_progress, stdout_to_stderr
from vllm_lmtp.cli.shared.results import print_result, write_result
from vllm_lmtp.eval.engines.engine import prepare_environment

BLOCKS_FILE = "blocks.jsonl"
LONGEST = 2048
"""The context where the model has a longer one and nothing is said."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the measurement `exact`."""
    parser = commands.add_parser(
        "exact", help="greedy output against plain decoding by the million tokens, under churn"
    )
    add = parser.add_argument
    add_model_arguments(parser)
    add(
        "--tokens",
        type=positive_argument,
        default=20_000,
        metavar="N",
        help="of plain decoding's answers, at least; default: 20000",
    )
    add(
        "--block",
        type=positive_argument,
        default=4_000,
        metavar="N",
        help="tokens of the answers that are asked for at once, and kept when done; default: 4000",
    )
    add("--whole", action="store_true", help="a second pass with drafts of full length throughout")
    add_condition_arguments(parser)
    add_option_argument(parser)
    add_run_arguments(parser)
    parser.set_defaults(run=run)


def add_condition_arguments(parser: argparse.ArgumentParser) -> None:
    """What makes it hard for an engine: many requests, small steps."""
    add = parser.add_argument
    add(
        "--max-tokens",
        type=positive_argument,
        default=256,
        metavar="N",
        help="of the longest answer; default: 256",
    )
    add("--batch", type=positive_argument, default=16, metavar="N", help="requests at a time")
    add(
        "--chunk",
        type=positive_argument,
        default=128,
        metavar="N",
        help="tokens of a step, which longer prompts are divided by; default: 128",
    )
    add(
        "--context",
        type=positive_argument,
        metavar="N",
        help=f"max_model_len; default: the model's own, {LONGEST} at most",
    )
    add("--compile", action="store_true", help="compile, as vLLM does when it serves")


def context_of(args: argparse.Namespace) -> int:
    """The longest request that an engine takes.

    Raises:
        LMTPError: the model cannot be read.
    """
    from vllm_lmtp.eval.prompts.asking import longest_request

    return args.context or min(longest_request(args.model) or LONGEST, LONGEST)


def run(args: argparse.Namespace) -> int:
    """Compare. Returns 1 when float32 answers differ by more than a near tie, when counters
    disagree, or when something never happened that the run is there to show.

    Raises:
        LMTPError: the heads or the target is at fault, or nothing can be written.
    """
    prepare_environment(args.threads)
    with stdout_to_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm_lmtp.eval.engines.variants import read_variants
        from vllm_lmtp.eval.pages import report
        from vllm_lmtp.eval.prompts.asking import Settings
        from vllm_lmtp.eval.provenance import provenance
        from vllm_lmtp.eval.trust import exact, texts
        from vllm_lmtp.eval.trust.kept import Kept
        from vllm_lmtp.eval.trust.margin import MarginOf
        from vllm_lmtp.eval.trust.trial import Conditions
        from vllm_lmtp.eval.trust.verdict import is_fault
        from vllm_lmtp.formats.whole import room_for

        if args.output is not None:
            report.check_output(args.output)
        resolve_model(args)
        variants = read_variants(args.heads, args.model, options=args.option)
        if args.whole:
            variants = [v for one in variants for v in (one, exact.in_whole_drafts(one))]
        conditions = Conditions(
            args.model, args.dtype, context_of(args), args.batch, args.chunk, not args.compile
        )
        plan = exact.Plan(args.tokens, args.block, args.max_tokens, args.seed)
        settings = Settings(args.model, args.max_tokens, args.dtype, args.batch, args.seed, "auto")
        folder: Path | None = args.output
        with room_for(folder or Path(BLOCKS_FILE)):
            kept = Kept(None if folder is None else folder / BLOCKS_FILE)
            found = exact.measure(
                variants,
                conditions,
                plan,
                kept,
                lambda tokens: texts.write_texts(settings, tokens, print_progress),
                MarginOf(args.model, args.dtype),
                print_progress,
            )
        result = {
            "kind": "exact",
            "provenance": provenance(args.words, args.seed),
            "settings": {"model": shown_model(args.model), "dtype": args.dtype},
            **found,
        }
        write_result(result, args)
    print_result(result, args)
    variants_found = result["variants"]
    fault = args.dtype == "float32" and any(map(is_fault, variants_found))
    return 1 if fault or any(v["broken"] or v["not_seen"] for v in variants_found) else 0
