"""`vllm-lmtp eval quality`: lm-evaluation-harness with and without speculation."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vllm_lmtp.cli.shared.arguments import (
    add_model_arguments,
    add_option_argument,
    add_run_arguments,
)
from vllm_lmtp.cli.shared.measuring import resolve_model, shown_model
from vllm_lmtp.cli.shared.output import positive_argument, print_progress, stdout_to_stderr
from vllm_lmtp.cli.shared.results import print_result, write_result
from vllm_lmtp.eval.engines.engine import CACHE_GIB, LEAST_CACHE_GIB, prepare_environment


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the measurement `quality`."""
    parser = commands.add_parser(
        "quality", help="lm-evaluation-harness's scores with and without speculation"
    )
    add = parser.add_argument
    add_model_arguments(parser)
    add("--tasks", nargs="+", required=True, metavar="TASK", help="tasks of the harness")
    add("--limit", type=positive_argument, metavar="N", help="documents of each task")
    add("--include", type=Path, metavar="DIR", help="a folder of tasks of your own")
    add("--chat", action="store_true", help="put documents into the chat template")
    add("--context", type=positive_argument, metavar="N", help="max_model_len of the engine")
    add_option_argument(parser)
    add_run_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score. Returns 1 when float32 scores differ, which must never happen.

    Raises:
        LMTPError: lm-evaluation-harness is not installed or failed, or model or heads are at fault.
    """
    from vllm_lmtp.eval.engines.methods import PLAIN, Method
    from vllm_lmtp.eval.engines.variants import read_variants
    from vllm_lmtp.eval.measurements import quality
    from vllm_lmtp.eval.pages import report
    from vllm_lmtp.eval.provenance import provenance

    quality.check_harness()
    prepare_environment(args.threads)
    os.environ["VLLM_LOGGING_LEVEL"] = "INFO"  # or the drafter would not be heard of
    os.environ.setdefault(CACHE_GIB, str(LEAST_CACHE_GIB))  # the harness starts engines itself
    if args.output is not None:
        report.check_output(args.output)
    with stdout_to_stderr():
        resolve_model(args)
        variants = read_variants(args.heads, args.model, options=args.option)
        methods = [Method(PLAIN), *(Method(v.name, v.speculative_config) for v in variants)]
        served = {"dtype": args.dtype, "seed": args.seed}
        served |= {} if args.context is None else {"max_model_len": args.context}
        exam = quality.Exam(tuple(args.tasks), args.limit, args.include, args.chat, served)
        result = {
            "kind": "quality",
            "provenance": provenance(args.words, args.seed),
            "settings": {"model": shown_model(args.model), "dtype": args.dtype},
            **quality.measure(args.model, methods, exam, print_progress),
        }
        write_result(result, args)
    print_result(result, args)
    return 1 if result["differences"] and args.dtype == "float32" else 0
