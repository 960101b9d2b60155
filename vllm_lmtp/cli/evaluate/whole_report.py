"""`vllm-lmtp eval report`: everything about a model and its heads on one page."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_lmtp.cli.shared.arguments import add_model_arguments, add_run_arguments, add_set_arguments
from vllm_lmtp.cli.shared.measuring import resolve_model
from vllm_lmtp.cli.shared.output import (
    positive_argument,
    print_json,
    print_progress,
    stdout_to_stderr,
)
from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.hub import resolve_folder
from vllm_lmtp.formats.whole import room_for, write_text

PAGE = "report.md"
SPEC_BENCH = "spec_bench"
DIFFERENT = 1


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `report`."""
    parser = commands.add_parser(
        "report", help="heads, acceptance, losslessness, tuning and speed on one page"
    )
    add_model_arguments(parser)
    add_set_arguments(parser)
    parser.add_argument(
        "--quick", action="store_true", help="less of everything; nothing is compiled"
    )
    parser.add_argument(
        "--eager",
        action="store_true",
        help="compile nothing in a whole report either, which takes a CPU minutes for each engine",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        metavar="TASK",
        help="score these with lm-evaluation-harness too, with and without speculation",
    )
    parser.add_argument(
        "--documents", type=positive_argument, metavar="N", help="of each of the tasks"
    )
    add_run_arguments(parser, output_required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure what is not there yet and write the page.

    Returns 1 when a part failed, or when float32 outputs differ.

    Raises:
        LMTPError: the model, its heads or the output folder is at fault.
    """
    with stdout_to_stderr():
        from vllm_lmtp.config.spec_config import runner_in_use
        from vllm_lmtp.eval.engines.methods import stamp_of
        from vllm_lmtp.eval.pages import parts, report

        report.check_output(args.output)
        name = args.model
        if len(args.heads) > 1:
            raise refuse(
                "report",
                "--heads",
                found=f"{len(args.heads)} of them",
                expected="one, which the tuned configuration is made for",
                remedy="make a report of each, or compare them with `eval acceptance`",
            )
        given = list(args.heads)
        resolve_model(args)
        heads = args.heads[0].rpartition("=")[2] if args.heads else args.model
        checkpoint = read_checkpoint(resolve_folder(heads))
        size = parts.QUICK if args.quick else replace(parts.FULL, eager=args.eager)
        words = parts.part_words(
            size,
            _common(args, name, given),
            checkpoint.schedule.max_drafts,
            args.output,
            _exam(args, name, given) if args.tasks else (),
            cuts=runner_in_use() == 1,
        )
        stamps = parts.Stamps(args.output)
        files = {"model": stamp_of(args.model), "heads": stamp_of(heads)}
        failed: dict[str, str] = {}
        seconds: dict[str, float] = {}
        different = False
        for kind in words:
            facts = {"words": words[kind], "files": files, "tuned": _tuned(words[kind])}
            if (code := stamps.code(kind, facts)) is not None:
                print_progress(f"{kind}: measured before")
                different |= code == DIFFERENT
                continue
            print_progress(f"{kind}: vllm-lmtp {' '.join(words[kind])}")
            start, before = time.perf_counter(), stamps.written(kind)
            code = _measure(words[kind])
            seconds[kind] = round(time.perf_counter() - start, 1)
            print_progress(f"{kind}: {seconds[kind]:.0f} s")
            # A command that broke off ends with 1, too, but leaves no new result.
            if code in (0, DIFFERENT) and stamps.written(kind) != before:
                stamps.note(kind, facts, code)
                different |= code == DIFFERENT
            else:
                failed[kind] = f"its command ended with {code}; the log says why"
        if len(failed) == len(words):
            raise refuse(
                str(args.output),
                "parts",
                found="none could be measured",
                expected="at least one",
                remedy="read the log above",
            )
        page, results = _page(args, name, [kind for kind in words if kind not in failed], failed)
    if args.json:
        print_json({"page": str(page), "failed": failed, "seconds": seconds, "results": results})
    else:
        print(page)
    return DIFFERENT if failed or different else 0


def _common(args: argparse.Namespace, name: str, heads: list[str]) -> list[str]:
    """Arguments of all parts that ask prompts."""
    path = [] if args.path is None else ["--path", str(args.path)]
    chosen = args.set or _default_set(args)
    return [*_subject(args, name, heads), "--set", chosen, *path, "--style", args.style]


def _exam(args: argparse.Namespace, name: str, heads: list[str]) -> list[str]:
    """Arguments of `eval quality`."""
    documents = [] if args.documents is None else ["--limit", str(args.documents)]
    chat = ["--chat"] if args.style == "chat" else []
    return [*_subject(args, name, heads), "--tasks", *args.tasks, *documents, *chat]


def _subject(args: argparse.Namespace, name: str, heads: list[str]) -> list[str]:
    """The model as it was named, so that results say so, its heads, and how all parts run."""
    given = ["--heads", *heads] if heads else []
    numbers = ["--seed", str(args.seed), "--threads", str(args.threads)]
    return ["--model", name, *given, "--dtype", args.dtype, *numbers]


def _default_set(args: argparse.Namespace) -> str:
    from vllm_lmtp.eval.prompts.sets import SETS
    from vllm_lmtp.formats.tokenizer import has_tokenizer

    if args.path is not None and (args.path / SETS[SPEC_BENCH].file).is_file():
        return SPEC_BENCH
    if not has_tokenizer(args.model):
        return "stories"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    return "questions" if tokenizer.chat_template is not None else "stories"


def _measure(words: list[str]) -> int:
    """Run a part; what it prints is in its files, too. A report that is told to stop stops it."""
    command = [sys.executable, "-m", "vllm_lmtp.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as part:

        def stop(*_: object) -> None:
            part.terminate()
            sys.exit(128 + signal.SIGTERM)

        before = signal.signal(signal.SIGTERM, stop)
        try:
            return part.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


def _tuned(words: list[str]) -> str | None:
    """The configuration that a part measures, which is as good as another file of the model."""
    if "--config" not in words:
        return None
    file = Path(words[words.index("--config") + 1])
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _page(
    args: argparse.Namespace, name: str, kinds: list[str], failed: dict[str, str]
) -> tuple[Path, Any]:
    from vllm_lmtp.eval.pages import parts, report

    found = {kind: report.read_result(args.output / f"{kind}.json") for kind in kinds}
    pages = {kind: report.render(result) for kind, result in found.items()}
    title = f"{Path(name).name}: heads, acceptance, losslessness and speed"
    text = parts.combine(title, pages, failed)
    page: Path = args.output / PAGE
    with room_for(page):
        write_text(page, text)
    return page, sorted(found)
