"""`vllm-lmtp distill`: let a model answer prompts, for heads to learn from its answers."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path

from vllm_lmtp.checkpoints.names import folder_or_id
from vllm_lmtp.cli.shared.output import add_json_flag, print_json, stdout_to_stderr
from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.files import fetch


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `distill`."""
    parser = subparsers.add_parser(
        "distill", help="write a model's own answers, to train heads on", description=__doc__
    )
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="a file such as configs/train/distill/*"
    )
    parser.add_argument("--model", help="the target, folder or id, instead of the file's `model`")
    parser.add_argument("--output", metavar="DIR", help="instead of the file's `output`")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="local copies of the prompt sets, <name>.jsonl"
    )
    add_json_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Distill, then print what was kept and why the rest was dropped.

    Raises:
        LMTPError: the file, a prompt set, the model or an answer is at fault, or a package is
            missing.
    """
    from vllm_lmtp.training.settings.distill import DistillRun
    from vllm_lmtp.training.settings.read_run import read_run

    config = read_run(args.config)
    if not isinstance(config, DistillRun):
        raise refuse(
            str(args.config),
            "run",
            found=config.run,
            expected="distill",
            remedy=f"vllm-lmtp train {args.config}",
        )
    config = dataclasses.replace(
        config, model=args.model or config.model, output=args.output or config.output
    )
    config = dataclasses.replace(config, model=_folder(config.model, args.config))
    with stdout_to_stderr():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        try:
            from vllm_lmtp.training.distillation.distill import distill

            command = f"vllm-lmtp distill {args.config.name} --model MODEL --data DATA"
            report = distill(config, command, args.data)
        except ModuleNotFoundError as error:
            raise refuse(
                "Python environment",
                "packages",
                found=f"no module {error.name!r}",
                expected="what distillation needs",
                remedy="pip install 'vllm-lmtp[train]'",
            ) from error
    if args.json:
        print_json(report)
        return 0
    for name, value in report["answers"].items():
        print(f"{name:<20} {value}")
    print(f"{'dataset':<20} {report['dataset']}")
    return 0


def _folder(model: str | None, config: Path) -> str:
    """The target's local folder; an id is fetched."""
    folder = None if model is None else fetch(folder_or_id(model))
    if folder is None or not (folder / "config.json").is_file():
        raise refuse(
            str(config),
            "model",
            found="none" if model is None else f"{model}, without a config.json",
            expected="the folder of a causal language model, or its id",
            remedy="name one with --model MODEL",
        )
    return str(folder)
