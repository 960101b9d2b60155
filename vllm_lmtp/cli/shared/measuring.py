"""What the measuring commands share: the target, the heads, the prompts, and where results go."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_lmtp.checkpoints.subject import EMBEDDED, subject_of
from vllm_lmtp.cli.shared.arguments import (
    TINY,
    add_model_arguments,
    add_run_arguments,
    add_set_arguments,
    add_size_arguments,
)
from vllm_lmtp.cli.shared.output import positive_argument, stdout_to_stderr
from vllm_lmtp.cli.shared.results import print_result, write_result
from vllm_lmtp.eval.engines.engine import prepare_environment

if TYPE_CHECKING:
    from vllm_lmtp.eval.engines.variants import Variant
    from vllm_lmtp.eval.prompts.asking import Questions, Settings

Measure = Callable[["list[Variant]", "Questions", "Settings"], dict[str, Any]]


def add_common(parser: argparse.ArgumentParser, batch: bool = True) -> None:
    """Add the arguments; `batch`: whether the command takes requests at a time."""
    add_model_arguments(parser)
    add_set_arguments(parser)
    add_size_arguments(parser)
    if batch:
        parser.add_argument(
            "--batch",
            type=positive_argument,
            default=8,
            metavar="N",
            help="requests at a time; default: %(default)s",
        )
    add_run_arguments(parser)
    parser.set_defaults(set="stories")


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


def shown_model(model: str) -> str:
    """A model as a result names it: a folder of this machine by its last part."""
    return Path(model).resolve().name if os.path.exists(model) else model


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
        from vllm_lmtp.eval.engines.variants import read_variants
        from vllm_lmtp.eval.pages import report
        from vllm_lmtp.eval.prompts.asking import Settings, encode_prompts
        from vllm_lmtp.eval.prompts.conditions import under_conditions
        from vllm_lmtp.eval.prompts.sets import load_set
        from vllm_lmtp.eval.provenance import provenance

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
        lengths, system = getattr(args, "contexts", []), getattr(args, "system", None)
        if lengths or system is not None:
            questions = under_conditions(loaded, questions, settings, lengths, system)
        found = measure(variants, questions, settings)
        result = {
            "kind": kind,
            "provenance": provenance(args.words, args.seed),
            "set": questions.facts,
            "settings": {
                "model": shown_model(args.model),
                "max_tokens": args.max_tokens,
                "dtype": args.dtype,
                "batch": args.batch,
            },
            **found,
        }
        write_result(result, args)
    if args.json or shown:
        print_result(result, args)
    return result
