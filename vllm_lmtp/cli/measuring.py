"""What the measuring commands share: the target, the heads, the prompts, and where results go."""

from __future__ import annotations

import argparse
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
from vllm_lmtp.cli.subject import EMBEDDED, subject_of

if TYPE_CHECKING:
    from vllm_lmtp.eval.asking import Questions, Settings
    from vllm_lmtp.eval.variants import Variant

DTYPES = ("float32", "bfloat16", "float16", "auto")
STYLES = ("auto", "chat", "raw")
TINY = "tiny"

Measure = Callable[["list[Variant]", "Questions", "Settings"], dict[str, Any]]


def add_common(parser: argparse.ArgumentParser, batch: bool = True) -> None:
    """Add the arguments; `batch`: whether the command takes requests at a time."""
    add = parser.add_argument
    add(
        "--model",
        metavar="MODEL",
        default=TINY,
        help="the target: folder or id; tiny, the embedded one (default); smollm2, a chat model, "
        "fetched once",
    )
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
        help="stories, questions, gsm8k_test, mt_bench, spec_bench, humaneval, mbpp_test, or a "
        'JSONL file whose rows have "prompt" or "tokens" (default: stories)',
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
    add(
        "--longest",
        type=positive_argument,
        metavar="N",
        help="leave out prompts of more tokens; the model's context when left out",
    )
    add("--max-tokens", type=positive_argument, default=128, metavar="N", help="default: 128")
    add("--dtype", choices=DTYPES, default="float32", help="of the engine; default: float32")
    if batch:
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


def resolve_model(args: argparse.Namespace) -> None:
    """Put a folder or an id in the place of a model's short name, and its heads beside it.

    Raises:
        LMTPError: the model cannot be prepared.
    """
    if args.model == TINY and not os.path.exists(args.model):
        args.model = str(EMBEDDED)
        return
    subject = subject_of(args.model, args.heads[0] if args.heads else None)
    if subject.model != args.model and not args.heads and subject.heads is not None:
        args.heads = [f"{args.model}={subject.heads}"]
    args.model = subject.model


def run_measurement(
    args: argparse.Namespace, kind: str, measure: Measure, shown: bool = True
) -> dict[str, Any]:
    """Read, measure, write and, if `shown`, print.

    Raises:
        LMTPError: the set, the heads or the target is at fault.
    """
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
        resolve_model(args)
        settings = Settings(
            args.model, args.max_tokens, args.dtype, args.batch, args.seed, args.style
        )
        options = {"options": getattr(args, "option", []), "scorers": getattr(args, "scorer", [])}
        variants = read_variants(args.heads, args.model, **options)
        loaded = load_set(args.set, args.path, args.limit)
        questions = encode_prompts(loaded, settings, args.longest)
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
    elif shown:
        print(report.render(result))
    return result
