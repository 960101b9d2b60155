"""`vllm-lmtp eval serve`: methods behind vLLM's server, under requests that arrive at a rate."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from vllm_lmtp.cli.evaluate.speed import add_method_arguments, methods_of
from vllm_lmtp.cli.shared.measuring import add_common, run_measurement
from vllm_lmtp.cli.shared.output import positive_argument, print_progress

if TYPE_CHECKING:
    from vllm_lmtp.eval.engines.variants import Variant
    from vllm_lmtp.eval.prompts.asking import Questions, Settings


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the measurement `serve`."""
    parser = commands.add_parser(
        "serve", help="how long requests wait that arrive at a rate, over HTTP"
    )
    add_common(parser)
    add = parser.add_argument
    add(
        "--rates",
        type=_rate,
        nargs="+",
        default=[1.0, None],
        metavar="R",
        help="requests a second; inf: all at once; default: 1 inf",
    )
    add("--requests", type=positive_argument, default=32, metavar="N", help="default: 32")
    add("--rounds", type=positive_argument, default=2, metavar="N", help="default: 2")
    add("--eager", action="store_true", help="do not compile; vLLM compiles when it serves")
    add_method_arguments(parser)
    parser.set_defaults(run=run, batch=64)


def run(args: argparse.Namespace) -> int:
    """Measure under open-loop load.

    Raises:
        LMTPError: the set, the heads or the target is at fault, or plain decoding cannot be served.
    """

    def measure(
        variants: list[Variant], questions: Questions, settings: Settings
    ) -> dict[str, Any]:
        from vllm_lmtp.eval.engines.process import refusing_failure
        from vllm_lmtp.eval.measurements.open_loop import Arrivals, measure

        rates = tuple(dict.fromkeys(args.rates))
        arrivals = Arrivals(rates, args.requests, args.rounds, args.batch, args.eager, args.threads)
        methods = methods_of(args, variants)
        with refusing_failure(settings.model, methods[0].name):
            return measure(methods, questions, settings, arrivals, print_progress)

    run_measurement(args, "serve", measure)
    return 0


def _rate(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate above 0, or inf")
    return None if math.isinf(value) else value
