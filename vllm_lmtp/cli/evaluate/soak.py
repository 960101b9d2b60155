"""`vllm-lmtp eval soak`: servers with and without L-MTP under load, every answer checked."""

from __future__ import annotations

import argparse
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_lmtp.cli.evaluate.exact import add_condition_arguments, context_of
from vllm_lmtp.cli.shared.arguments import (
    add_model_arguments,
    add_option_argument,
    add_run_arguments,
)
from vllm_lmtp.cli.shared.measuring import resolve_model, shown_model
from vllm_lmtp.cli.shared.output import (
    above_zero_argument,
    positive_argument,
    print_progress,
    stdout_to_stderr,
)
from vllm_lmtp.cli.shared.results import print_result, write_result
from vllm_lmtp.errors import refuse
from vllm_lmtp.eval.engines.engine import prepare_environment

if TYPE_CHECKING:
    from vllm_lmtp.eval.trust.plan import Adapter

TEXTS = 4_000
"""Tokens that prompts are cut from."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the measurement `soak`."""
    parser = commands.add_parser(
        "soak", help="servers with and without L-MTP under load, every answer checked"
    )
    add = parser.add_argument
    add_model_arguments(parser)
    add("--minutes", type=above_zero_argument, default=60.0, metavar="N", help="default: 60")
    add(
        "--load",
        type=above_zero_argument,
        default=0.4,
        metavar="SHARE",
        help="of the tokens a second that plain decoding bears by itself; default: 0.4",
    )
    add(
        "--rate",
        type=above_zero_argument,
        metavar="R",
        help="requests a second where the load is steady, instead of --load",
    )
    add("--prompts", type=positive_argument, default=96, metavar="N", help="different requests")
    add(
        "--every",
        type=above_zero_argument,
        default=5.0,
        metavar="S",
        help="seconds between readings of memory and metrics; default: 5",
    )
    add(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a LoRA adapter that requests take turns with; several may be given",
    )
    add_condition_arguments(parser)
    add_option_argument(parser)
    add_run_arguments(parser)
    parser.set_defaults(run=run, threads=max(1, (os.cpu_count() or 1) // 2))


def run(args: argparse.Namespace) -> int:
    """Load the servers. Returns 1 when an answer was lost, mixed up, or wrong by more than a near
    tie, or when counters disagree.

    Raises:
        LMTPError: the heads, an adapter or the target is at fault, or a server does not start.
    """
    prepare_environment(args.threads)
    with stdout_to_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm_lmtp.eval.engines.methods import PLAIN, Method
        from vllm_lmtp.eval.engines.process import refusing_failure
        from vllm_lmtp.eval.engines.variants import read_variants
        from vllm_lmtp.eval.pages import report
        from vllm_lmtp.eval.prompts.asking import Settings
        from vllm_lmtp.eval.provenance import provenance
        from vllm_lmtp.eval.trust import soak, texts
        from vllm_lmtp.eval.trust.margin import MarginOf
        from vllm_lmtp.eval.trust.mixture import some_requests
        from vllm_lmtp.eval.trust.outcome import is_fault, outcome
        from vllm_lmtp.eval.trust.plan import Plan
        from vllm_lmtp.eval.trust.trial import Conditions

        if args.output is not None:
            report.check_output(args.output)
        resolve_model(args)
        variant, *more = read_variants(args.heads, args.model, options=args.option)
        if more:
            raise refuse(
                "soak",
                "--heads",
                found=f"{1 + len(more)} of them",
                expected="one, beside plain decoding",
                remedy="soak them one after another",
            )
        plan = Plan(
            60 * args.minutes,
            args.load,
            args.rate,
            args.every,
            args.seed,
            tuple(map(read_adapter, args.adapter)),
        )
        conditions = Conditions(
            args.model, args.dtype, context_of(args), args.batch, args.chunk, not args.compile
        )
        settings = Settings(args.model, args.max_tokens, args.dtype, args.batch, args.seed, "auto")
        written = texts.write_texts(settings, TEXTS, print_progress)
        requests = some_requests(
            written, conditions.context, args.max_tokens, args.prompts, args.seed
        )
        methods = [Method(PLAIN), Method(variant.name, variant.speculative_config)]
        with refusing_failure(args.model, "soak"):
            soaked = soak.soak(methods, conditions, requests, plan, print_progress)
        margin = MarginOf(args.model, args.dtype)
        found = outcome(soaked, requests, plan, variant.checkpoint.schedule, margin)
        result = {
            "kind": "soak",
            "provenance": provenance(args.words, args.seed),
            "settings": {
                "model": shown_model(args.model),
                "dtype": args.dtype,
                "threads": args.threads,
            },
            "conditions": conditions.facts(),
            **found,
        }
        write_result(result, args)
    print_result(result, args)
    return 1 if any(map(is_fault, result["servers"])) else 0


def read_adapter(word: str) -> Adapter:
    """NAME=DIR.

    Raises:
        LMTPError: it is not that, or the folder is no adapter's.
    """
    from vllm_lmtp.eval.trust.plan import Adapter

    name, _, folder = word.partition("=")
    file = Path(folder) / "adapter_config.json"
    try:
        if not name or not folder:
            raise ValueError("no name or no folder")
        return Adapter(name, folder, int(json.loads(file.read_text(encoding="utf-8"))["r"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise refuse(
            "--adapter",
            "value",
            found=f"{word!r} ({error})",
            expected="NAME=DIR, a LoRA adapter as peft saves it",
            remedy="write it so",
        ) from error
