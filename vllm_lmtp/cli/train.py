"""`vllm-lmtp train`: train leap heads for a model, from one configuration file."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from vllm_lmtp.cli.shared.output import add_json_flag, print_json, stdout_to_stderr
from vllm_lmtp.errors import refuse
from vllm_lmtp.training.devices import is_main


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `train`."""
    parser = subparsers.add_parser("train", help="train leap heads", description=__doc__)
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="a file such as configs/train/*"
    )
    parser.add_argument("--output", metavar="DIR", help="where to write the checkpoint")
    parser.add_argument(
        "--teacher", metavar="MODEL", help="the model to train heads for, or stage 1: folder or id"
    )
    parser.add_argument(
        "--dataset", metavar="DIR", help="the distilled answers, where the run learns from some"
    )
    add_json_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, then print what the run reports.

    Raises:
        LMTPError: no such configuration, or the training extra is not installed.
    """
    if not args.config.is_file():
        raise refuse(
            str(args.config),
            "path",
            found="a folder" if args.config.is_dir() else "nothing there",
            expected="a training configuration",
            remedy="give one of the files in configs/train/",
        )
    with stdout_to_stderr():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        try:
            from vllm_lmtp.training.runs.run import run as train
        except ModuleNotFoundError as error:
            raise refuse(
                "vllm_lmtp.training",
                "import",
                found=f"no module {error.name!r}",
                expected="the packages that training needs",
                remedy='pip install "vllm-lmtp[train]"',
            ) from error
        report = train(args.config, output=args.output, teacher=args.teacher, dataset=args.dataset)
    if not is_main():
        return 0
    if args.json:
        print_json(report)
    else:
        for name, value in report.items():
            print(f"{name:<24} {value}")
    return 0
