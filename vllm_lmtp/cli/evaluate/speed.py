"""`vllm-lmtp eval speed`: methods side by side on the same prompts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_lmtp.cli.shared.arguments import add_option_argument
from vllm_lmtp.cli.shared.measuring import add_common, run_measurement
from vllm_lmtp.cli.shared.output import positive_argument, print_progress
from vllm_lmtp.errors import refuse

if TYPE_CHECKING:
    from vllm_lmtp.eval.engines.variants import Variant
    from vllm_lmtp.eval.measurements.speed import Plan
    from vllm_lmtp.eval.prompts.asking import Questions, Settings

CELLS_FILE = "cells.jsonl"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the measurement `speed`."""
    parser = commands.add_parser(
        "speed", help="how fast plain decoding and the methods are, by load"
    )
    add_common(parser, batch=False)
    add_load_arguments(parser, streams=[1, 8, 32, 64], rounds=3)
    add = parser.add_argument
    add(
        "--contexts",
        type=positive_argument,
        nargs="+",
        default=[],
        metavar="N",
        help="tokens of every prompt, which others of the set are put before; several are "
        "measured with every number of streams; default: prompts as they are",
    )
    add(
        "--processes",
        action="store_true",
        help="give engine core and worker processes of their own, as vLLM does where it serves; "
        "without, a step has no messages to pass",
    )
    add_method_arguments(parser)
    parser.set_defaults(run=run)


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides which methods are compared."""
    add = parser.add_argument
    add(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="measure only methods whose name contains this, and plain; may be repeated",
    )
    add(
        "--config",
        action="append",
        type=Path,
        default=[],
        metavar="YAML",
        help="measure a `vllm serve` configuration too, such as `vllm-lmtp tune` writes",
    )
    add("--draft-model", metavar="MODEL", help="measure drafting by this small model too")
    add("--eagle", metavar="MODEL", help="measure this EAGLE or EAGLE-3 checkpoint too")
    add(
        "--draft-tokens",
        type=positive_argument,
        default=3,
        metavar="N",
        help="of --draft-model and --eagle; default: 3",
    )
    add(
        "--method",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="measure any other speculative config too",
    )
    add_option_argument(parser)


def add_load_arguments(
    parser: argparse.ArgumentParser, streams: list[int], rounds: int, per_stream: int = 1
) -> None:
    """Add what decides how much is measured."""
    add = parser.add_argument
    add(
        "--streams",
        type=positive_argument,
        nargs="+",
        default=streams,
        metavar="N",
        help=f"requests in flight; default: {' '.join(map(str, streams))}",
    )
    add("--rounds", type=positive_argument, default=rounds, metavar="N", help=f"default: {rounds}")
    add(
        "--per-stream",
        type=positive_argument,
        default=per_stream,
        metavar="N",
        help=f"requests of a round for each stream; default: {per_stream}",
    )
    add(
        "--least",
        type=positive_argument,
        default=8,
        metavar="N",
        help="requests of a round at the least; default: 8",
    )
    add(
        "--mixed-answers",
        action="store_true",
        help="answers of a third of --max-tokens to all of them, as in a load that goes on; with "
        "one length for all, plain decoding begins and ends them together",
    )
    add("--eager", action="store_true", help="do not compile; vLLM compiles when it serves")
    add(
        "--alive",
        type=positive_argument,
        metavar="N",
        help="engines alive at once, where memory is short; the others are started anew each time",
    )


def plan_of(args: argparse.Namespace) -> Plan:
    """What the arguments ask for."""
    from vllm_lmtp.eval.measurements.speed import Plan

    return Plan(
        tuple(sorted(set(args.streams))),
        args.rounds,
        args.least,
        args.per_stream,
        args.eager,
        args.alive,
        args.threads,
        tuple(sorted(set(getattr(args, "contexts", [])))) or (None,),
        getattr(args, "processes", False),
        args.mixed_answers,
    )


def cells_file(args: argparse.Namespace) -> Path | None:
    """Where cells are kept, beside the results."""
    return None if args.output is None else args.output / CELLS_FILE


def run(args: argparse.Namespace) -> int:
    """Measure speeds. Returns 1 when float32 answers differ from plain decoding's.

    Raises:
        LMTPError: the set, the heads or the target is at fault, or plain decoding cannot be run.
    """
    from vllm_lmtp.eval.measurements import speed

    args.batch = max(args.streams)

    def measure(
        variants: list[Variant], questions: Questions, settings: Settings
    ) -> dict[str, Any]:
        from vllm_lmtp.eval.engines.process import refusing_failure
        from vllm_lmtp.eval.prompts.contexts import make_room

        plan = plan_of(args)
        questions = make_room(questions, settings, plan.contexts)
        methods = methods_of(args, variants)
        with refusing_failure(settings.model, methods[0].name):
            return speed.measure(
                methods, questions, settings, plan, cells_file(args), print_progress
            )

    result = run_measurement(args, "speed", measure)
    return 1 if args.dtype == "float32" and speed.differences(result) else 0


def methods_of(args: argparse.Namespace, variants: list[Variant]) -> list[Any]:
    """The methods that the arguments ask for, plain decoding first.

    Raises:
        LMTPError: one of them is not one.
    """
    from vllm_lmtp.eval.engines import methods

    found = methods.builtin_methods(variants)
    if args.only:
        known = [m.name for m in found]
        for word in args.only:
            if not any(word in name for name in known):
                raise refuse(
                    "--only",
                    "name",
                    found=repr(word),
                    expected=f"a part of one of {', '.join(known)}",
                    remedy="name one of them",
                )
        found = [m for m in found if m.name == methods.PLAIN or any(w in m.name for w in args.only)]
    found += [methods.configured(file) for file in args.config]
    if args.draft_model:
        found.append(methods.drafting_model(args.draft_model, args.draft_tokens))
    if args.eagle:
        found.append(methods.eagle(args.eagle, args.draft_tokens))
    found += [methods.named(word) for word in args.method]
    methods.check_names(found)
    return found
