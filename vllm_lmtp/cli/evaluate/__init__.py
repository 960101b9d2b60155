"""`vllm-lmtp eval`: heads, acceptance, losslessness and speed over prompt sets, with reports."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_lmtp.cli.evaluate import exact, quality, scaling, serve, soak, speed, whole_report
from vllm_lmtp.cli.shared.arguments import add_option_argument
from vllm_lmtp.cli.shared.measuring import add_common, run_measurement
from vllm_lmtp.cli.shared.output import (
    add_json_flag,
    positive_argument,
    print_json,
    print_progress,
)

if TYPE_CHECKING:
    from vllm_lmtp.eval.engines.variants import Variant
    from vllm_lmtp.eval.prompts.asking import Questions, Settings


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
        add_common(command)
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
    acceptance.add_argument(
        "--contexts",
        type=positive_argument,
        nargs="+",
        default=[],
        metavar="N",
        help="tokens of every prompt, made longer by others of the set; each is a row beside the "
        "prompts as they are",
    )
    acceptance.add_argument(
        "--system", metavar="TEXT", help="a row more with this system prompt before each prompt"
    )
    for command in (acceptance, lossless):
        command.add_argument(
            "--scorer",
            action="append",
            default=[],
            metavar="KIND",
            help="lmtp_scorer; several are compared; the checkpoint's choice when left out",
        )
        add_option_argument(command)
    exact.add_parser(commands)
    soak.add_parser(commands)
    speed.add_parser(commands)
    serve.add_parser(commands)
    quality.add_parser(commands)
    scaling.add_parser(commands)
    whole_report.add_parser(commands)
    render = commands.add_parser("render", help="the Markdown page of a JSON result")
    render.add_argument("result", type=Path, metavar="JSON", help="as --output wrote it")
    add_json_flag(render)
    render.set_defaults(run=run_render)


def run_heads(args: argparse.Namespace) -> int:
    """Measure heads.

    Raises:
        LMTPError: the set, the heads or the target is at fault, or they do not fit each other.
    """
    from vllm_lmtp.eval.offline import heads

    def measure(
        variants: list[Variant], questions: Questions, settings: Settings
    ) -> dict[str, Any]:
        temperatures = list(dict.fromkeys(args.temperature))
        found = heads.measure(variants, questions, settings, temperatures, print_progress)
        return {"temperatures": found}

    run_measurement(args, "heads", measure)
    return 0


def run_acceptance(args: argparse.Namespace) -> int:
    """Measure acceptance.

    Raises:
        LMTPError: the set, the heads or the target is at fault, or they cannot be served.
    """

    def measure(
        variants: list[Variant], questions: Questions, settings: Settings
    ) -> dict[str, Any]:
        from vllm_lmtp.eval.measurements import served

        temperatures = list(dict.fromkeys(args.temperature))
        found = served.measure(variants, questions, settings, temperatures, print_progress)
        return {"variants": found}

    run_measurement(args, "acceptance", measure)
    return 0


def run_lossless(args: argparse.Namespace) -> int:
    """Compare with plain decoding. Returns 1 when float32 outputs differ, which must never happen.

    Raises:
        LMTPError: the set, the heads or the target is at fault, or they cannot be served.
    """

    def measure(
        variants: list[Variant], questions: Questions, settings: Settings
    ) -> dict[str, Any]:
        from vllm_lmtp.eval.measurements import lossless

        return {"variants": lossless.measure(variants, questions, settings, print_progress)}

    result = run_measurement(args, "lossless", measure)
    same = all(not variant["differences"] for variant in result["variants"])
    return 0 if same or args.dtype != "float32" else 1


def run_render(args: argparse.Namespace) -> int:
    """Print the page of a result.

    Raises:
        LMTPError: the file is not a result.
    """
    from vllm_lmtp.eval.pages.report import read_result, render

    result = read_result(args.result)
    if args.json:
        print_json({"markdown": render(result)})
    else:
        print(render(result))
    return 0


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a temperature, 0 or above")
    return value
