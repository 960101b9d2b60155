"""`vllm-lmtp eval`: head accuracy, acceptance and losslessness over prompt sets, with reports."""

from __future__ import annotations

import argparse
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_lmtp.cli.engines import prepare_environment
from vllm_lmtp.cli.output import (
    add_json_flag,
    positive_argument,
    print_json,
    print_progress,
    stdout_to_stderr,
)

if TYPE_CHECKING:
    from vllm_lmtp.eval.asking import Questions, Settings
    from vllm_lmtp.eval.variants import Variant

EMBEDDED = Path(__file__).parents[1] / "checkpoints" / "tiny"
DTYPES = ("float32", "bfloat16", "float16", "auto")
STYLES = ("auto", "chat", "raw")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `eval` and its own commands."""
    parser = subparsers.add_parser(
        "eval", help="measure heads and acceptance over prompt sets", description=__doc__
    )
    commands = parser.add_subparsers(title="measurements", metavar="WHAT", required=True)
    heads = commands.add_parser("heads", help="what each head predicts rightly, by offset")
    acceptance = commands.add_parser("acceptance", help="what the target accepts when served")
    lossless = commands.add_parser("lossless", help="greedy output against plain decoding")
    for command, run_it in (
        (heads, run_heads),
        (acceptance, run_acceptance),
        (lossless, run_lossless),
    ):
        _add_common(command)
        command.set_defaults(run=run_it)
    for command in (heads, acceptance):
        command.add_argument(
            "--temperature",
            type=_temperature,
            nargs="+",
            default=[0.0, 1.0],
            metavar="T",
            help="one or several; default: 0 1",
        )
    for command in (acceptance, lossless):
        command.add_argument(
            "--scorer",
            action="append",
            default=[],
            metavar="KIND",
            help="lmtp_scorer; several are compared; the checkpoint's choice when left out",
        )
        command.add_argument(
            "--option",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="another key of the speculative config, such as num_speculative_tokens=2",
        )
    render = commands.add_parser("render", help="the Markdown page of a JSON result")
    render.add_argument("result", type=Path, metavar="JSON", help="as --output wrote it")
    add_json_flag(render)
    render.set_defaults(run=run_render)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="MODEL", default=str(EMBEDDED), help="the target; default: the embedded")
    add(
        "--heads",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="heads to measure; several are compared; the model's own when left out",
    )
    add(
        "--set",
        default="stories",
        metavar="NAME",
        help="stories, gsm8k_test, mt_bench, spec_bench, humaneval, mbpp_test, or a JSONL file "
        'whose rows have "prompt" or "tokens" (default: stories)',
    )
    add(
        "--path",
        type=Path,
        metavar="DIR",
        help="holds local copies of the sets, such as gsm8k_test.jsonl; else they are fetched",
    )
    add("--limit", type=positive_argument, metavar="N", help="prompts of each group, evenly spread")
    add(
        "--style", choices=STYLES, default="auto", help="default: the chat template if there is one"
    )
    add("--max-tokens", type=positive_argument, default=128, metavar="N", help="default: 128")
    add("--dtype", choices=DTYPES, default="float32", help="of the engine; default: float32")
    add(
        "--batch",
        type=positive_argument,
        default=8,
        metavar="N",
        help="requests at a time; default: 8",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the first prompt; default: 0")
    add(
        "--threads",
        type=positive_argument,
        default=os.cpu_count() or 1,
        metavar="N",
        help="CPU threads; default: all",
    )
    add("--output", type=Path, metavar="DIR", help="write JSON, Markdown and a picture here")
    add_json_flag(parser)


def run_heads(args: argparse.Namespace) -> int:
    """Measure heads.

    Raises:
        LMTPError: the set, the heads or the target is at fault, or they do not fit each other.
    """
    from vllm_lmtp.eval import heads

    def measure(
        variants: list[Variant], questions: Questions, settings: Settings
    ) -> dict[str, Any]:
        temperatures = list(dict.fromkeys(args.temperature))
        found = heads.measure(variants, questions, settings, temperatures, print_progress)
        return {"temperatures": found}

    _run(args, "heads", measure)
    return 0


def run_acceptance(args: argparse.Namespace) -> int:
    """Measure acceptance.

    Raises:
        LMTPError: the set, the heads or the target is at fault, or they cannot be served.
    """

    def measure(
        variants: list[Variant], questions: Questions, settings: Settings
    ) -> dict[str, Any]:
        from vllm_lmtp.eval import served

        temperatures = list(dict.fromkeys(args.temperature))
        found = served.measure(variants, questions, settings, temperatures, print_progress)
        return {"variants": found}

    _run(args, "acceptance", measure)
    return 0


def run_lossless(args: argparse.Namespace) -> int:
    """Compare with plain decoding. Returns 1 when float32 outputs differ, which must never happen.

    Raises:
        LMTPError: the set, the heads or the target is at fault, or they cannot be served.
    """

    def measure(
        variants: list[Variant], questions: Questions, settings: Settings
    ) -> dict[str, Any]:
        from vllm_lmtp.eval import lossless

        return {"variants": lossless.measure(variants, questions, settings, print_progress)}

    result = _run(args, "lossless", measure)
    same = all(not variant["differences"] for variant in result["variants"])
    return 0 if same or args.dtype != "float32" else 1


def run_render(args: argparse.Namespace) -> int:
    """Print the page of a result.

    Raises:
        LMTPError: the file is not a result.
    """
    from vllm_lmtp.eval.report import read_result, render

    result = read_result(args.result)
    if args.json:
        print_json({"markdown": render(result)})
    else:
        print(render(result))
    return 0


Measure = Callable[["list[Variant]", "Questions", "Settings"], dict[str, Any]]


def _run(args: argparse.Namespace, kind: str, measure: Measure) -> dict[str, Any]:
    """What all measurements share: read, measure, write, print."""
    prepare_environment(args.threads)
    with stdout_to_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm_lmtp.eval import report
        from vllm_lmtp.eval.asking import Settings, encode_prompts
        from vllm_lmtp.eval.provenance import provenance
        from vllm_lmtp.eval.sets import load_set
        from vllm_lmtp.eval.variants import read_variants

        if args.output is not None:
            report.check_output(args.output)
        settings = Settings(
            args.model, args.max_tokens, args.dtype, args.batch, args.seed, args.style
        )
        options = {"scorers": args.scorer, "options": args.option} if kind != "heads" else {}
        variants = read_variants(args.heads, args.model, **options)
        questions = encode_prompts(load_set(args.set, args.path, args.limit), settings)
        found = measure(variants, questions, settings)
        result = {
            "kind": kind,
            "provenance": provenance(args.words, args.seed),
            "set": questions.facts,
            "settings": {
                "model": Path(args.model).resolve().name
                if os.path.exists(args.model)
                else args.model,
                "max_tokens": args.max_tokens,
                "dtype": args.dtype,
                "batch": args.batch,
            },
            **found,
        }
        if args.output is not None:
            for file in report.save(result, args.output):
                print_progress(f"wrote {file}")
    if args.json:
        print_json(result)
    else:
        print(report.render(result))
    return result


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a temperature, 0 or above")
    return value
