"""`vllm-lmtp tune`: the draft length for each load, and the cut, as a ready configuration."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_lmtp.cli.evaluate.speed import add_load_arguments, cells_file, plan_of
from vllm_lmtp.cli.shared.arguments import add_option_argument
from vllm_lmtp.cli.shared.measuring import add_common, run_measurement
from vllm_lmtp.cli.shared.output import positive_argument, print_progress
from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import write_text

if TYPE_CHECKING:
    from vllm_lmtp.eval.engines.variants import Variant
    from vllm_lmtp.eval.prompts.asking import Questions, Settings

CONFIG_FILE = "tuned.yaml"
HEADER = """\
# vllm serve --config {name}
# Made by `{command}`
# on {date}, {cpu}, {cores} cores.
# Speed over plain decoding or drafting nothing, whichever is faster, by requests in flight:
{table}
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `tune`."""
    parser = subparsers.add_parser(
        "tune", help="find the draft length for each load, and write it down", description=__doc__
    )
    add_common(parser, batch=False)
    add_load_arguments(parser, streams=[1, 2, 4, 8, 16, 32, 64], rounds=3)
    add_option_argument(parser)
    add = parser.add_argument
    add(
        "--lengths",
        type=positive_argument,
        nargs="+",
        metavar="N",
        help="draft lengths to try beside 0; default: all that the heads give",
    )
    add(
        "--cuts",
        type=_cut,
        nargs="+",
        default=[],
        metavar="C",
        help="values of lmtp_min_confidence to try beside none, such as 0.1 0.3, with every "
        "length (Model Runner V1)",
    )
    add(
        "--least-gain",
        type=_gain,
        default=0.03,
        metavar="SHARE",
        help="what drafting must gain beyond the noise; default: 0.03",
    )
    add(
        "--write",
        type=Path,
        metavar="YAML",
        help=f"the configuration; default: {CONFIG_FILE} in --output",
    )
    add(
        "--length-file",
        type=Path,
        metavar="FILE",
        help="also serve each load with a draft length found while serving, and keep what was "
        "learnt there for lmtp_draft_length_file",
    )
    add("--verify", action="store_true", help="then measure it against plain decoding")
    parser.set_defaults(run=run, max_tokens=64)


def run(args: argparse.Namespace) -> int:
    """Tune.

    Raises:
        LMTPError: the set, the heads or the target is at fault, or there is nowhere to write to.
    """
    file = args.write or (args.output / CONFIG_FILE if args.output else None)
    if file is None:
        raise refuse(
            "tune",
            "--write",
            found="neither --write nor --output",
            expected="a file for the configuration",
            remedy=f"add --write {CONFIG_FILE}",
        )
    if args.rounds < 2:
        raise refuse(
            "tune",
            "--rounds",
            found="1",
            expected="at least 2, to tell a gain from noise",
            remedy="leave it out",
        )
    args.batch = max(args.streams)
    if args.length_file is not None:
        _check_length_file(args.length_file.absolute())

    def measure(
        variants: list[Variant], questions: Questions, settings: Settings
    ) -> dict[str, Any]:
        from vllm_lmtp.eval.engines.methods import Method
        from vllm_lmtp.eval.measurements import teaching, tuning

        if len(variants) != 1:
            raise refuse(
                "tune",
                "--heads",
                found=f"{len(variants)} of them",
                expected="one",
                remedy="tune each in a run of its own",
            )
        (variant,) = variants
        lengths = args.lengths or range(1, variant.checkpoint.schedule.max_drafts + 1)
        plan = plan_of(args)
        found = tuning.measure(
            variant,
            questions,
            settings,
            plan,
            lengths,
            args.least_gain,
            cells_file(args),
            print_progress,
            args.cuts,
        )
        config = tuning.tuned(variant, found["schedule"], found["cut"])
        write_config(file, args, config, found)
        shown = Method("tuned", config).facts()["speculative_config"]
        found["speculative_config"] = shown
        if args.length_file is not None:
            teaching.teach(
                variant, args.length_file.absolute(), questions, settings, plan, print_progress
            )
        if args.verify:
            found["verification"] = _verify(args, variant, config, questions, settings)
        return found

    run_measurement(args, "tune", measure)
    return 0


def _check_length_file(file: Path) -> None:
    """Before anything is measured: what is there is such a file, and its folder can be had."""
    from vllm_lmtp.length.file import read_file

    read_file(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refuse(
            "tune",
            "--length-file",
            found=f"{file}, whose folder cannot be made ({error.strerror or error})",
            expected="a file that may be written",
            remedy="give another path",
        ) from error


def write_config(
    file: Path, args: argparse.Namespace, config: dict[str, Any] | None, found: Mapping[str, Any]
) -> None:
    """Write what `vllm serve --config` takes, with the reasons as comments.

    Raises:
        LMTPError: it cannot be written.
    """
    import yaml

    from vllm_lmtp.eval.provenance import provenance

    origin = provenance(args.words, args.seed)
    served: dict[str, Any] = {"model": os.path.abspath(args.model)}
    if not os.path.exists(args.model):
        served["model"] = args.model
    if config is not None:
        if config.get("model") and os.path.exists(config["model"]):
            config = config | {"model": os.path.abspath(config["model"])}
        served["speculative-config"] = json.dumps(config)
    served |= {"dtype": args.dtype, "max-num-seqs": max(args.streams)}
    if args.eager:
        served["enforce-eager"] = True
    header = HEADER.format(
        name=file.name,
        command=origin["command"],
        date=origin["date"],
        cpu=origin["machine"].get("gpu") or origin["machine"]["cpu"],
        cores=origin["machine"]["usable_cores"],
        table="\n".join(_reasons(found)),
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(served, sort_keys=False, width=10_000)
        write_text(file, header + text)
    except OSError as error:
        raise refuse(
            str(file),
            "--write",
            found=f"cannot be written ({error.strerror or error})",
            expected="a file that may be written",
            remedy="give another path",
        ) from error
    print_progress(f"wrote {file}")


def _reasons(found: Mapping[str, Any]) -> list[str]:
    ratios = {
        (load["streams"], load["length"]): load["speed_up"]["median"]
        for load in found["loads"]
        if load["speed_up"] and load["cut"] == found["cut"]
    }
    cut = f" cut at {found['cut']:g}" if found["cut"] else ""
    return [
        f"#   {entry['streams']}: "
        + (
            f"{entry['length']} draft token(s){cut}, "
            f"{ratios[entry['streams'], entry['length']]:.2f}"
            if entry["length"]
            else "no drafts, nothing pays"
        )
        for entry in found["chosen"]
    ]


def _verify(
    args: argparse.Namespace,
    variant: Variant,
    config: dict[str, Any] | None,
    questions: Questions,
    settings: Settings,
) -> dict[str, Any]:
    """Plain decoding, whole drafts at every load, and the tuned configuration."""
    from vllm_lmtp.eval.engines.methods import PLAIN, Method
    from vllm_lmtp.eval.measurements import speed

    methods = [
        Method(PLAIN),
        Method("lmtp, whole drafts", variant.whole_drafts),
        Method("tuned", config, None if config else "it does not speculate"),
    ]
    return speed.measure(
        methods, questions, settings, plan_of(args), cells_file(args), print_progress
    )


def _gain(text: str) -> float:
    return _share(text, "a share from 0 to below 1", lambda value: 0 <= value < 1)


def _cut(text: str) -> float:
    return _share(text, "a probability above 0 and below 1", lambda value: 0 < value < 1)


def _share(text: str, what: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value
