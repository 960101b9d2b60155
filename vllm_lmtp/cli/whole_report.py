"""`vllm-lmtp eval report`: everything about a model and its heads on one page."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vllm_lmtp.checkpoint import read_checkpoint
from vllm_lmtp.cli.measuring import DTYPES, STYLES, TINY, resolve_model
from vllm_lmtp.cli.output import (
    add_json_flag,
    positive_argument,
    print_json,
    print_progress,
    stdout_to_stderr,
)
from vllm_lmtp.errors import refuse
from vllm_lmtp.hub import resolve_folder

PAGE = "report.md"
SPEC_BENCH = "spec_bench"
DIFFERENT = 1


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `report`."""
    parser = commands.add_parser(
        "report", help="heads, acceptance, losslessness, tuning and speed on one page"
    )
    add = parser.add_argument
    add("--model", default=TINY, metavar="MODEL", help="tiny (default), smollm2, or a folder")
    add("--heads", metavar="DIR", help="the model's own when left out")
    add("--quick", action="store_true", help="less of everything; nothing is compiled")
    add("--set", metavar="NAME", help="spec_bench where --path has it, else a small one of ours")
    add("--path", type=Path, metavar="DIR", help="holds local copies of the sets")
    add("--style", choices=STYLES, default="auto", help="default: the chat template if any")
    add("--dtype", choices=DTYPES, default="float32", help="default: float32")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add(
        "--threads",
        type=positive_argument,
        default=os.cpu_count() or 1,
        metavar="N",
        help="CPU threads; default: all",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="where everything is written")
    add_json_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure what is not there yet and write the page.

    Returns 1 when a part failed, or when float32 outputs differ.

    Raises:
        LMTPError: the model, its heads or the output folder is at fault.
    """
    with stdout_to_stderr():
        from vllm_lmtp.eval import parts, report
        from vllm_lmtp.eval.methods import stamp_of

        report.check_output(args.output)
        name = args.model
        args.heads = [f"heads={args.heads}"] if args.heads else []
        resolve_model(args)
        heads = args.heads[0].partition("=")[2] if args.heads else args.model
        checkpoint = read_checkpoint(resolve_folder(heads))
        size = parts.QUICK if args.quick else parts.FULL
        common = _common(args, name)
        words = parts.part_words(size, common, checkpoint.schedule.max_drafts, args.output)
        stamps = parts.Stamps(args.output)
        files = {"model": stamp_of(args.model), "heads": stamp_of(heads)}
        failed: dict[str, str] = {}
        seconds: dict[str, float] = {}
        different = False
        for kind in parts.KINDS:
            facts = {"words": words[kind], "files": files}
            if stamps.has(kind, facts):
                print_progress(f"{kind}: measured before")
                continue
            print_progress(f"{kind}: vllm-lmtp {' '.join(words[kind])}")
            start = time.perf_counter()
            code = _measure(words[kind])
            seconds[kind] = round(time.perf_counter() - start, 1)
            print_progress(f"{kind}: {seconds[kind]:.0f} s")
            different |= code == DIFFERENT
            if code in (0, DIFFERENT):
                stamps.note(kind, facts)
            else:
                failed[kind] = f"its command ended with {code}; the log says why"
        if len(failed) == len(parts.KINDS):
            raise refuse(
                str(args.output),
                "parts",
                found="none could be measured",
                expected="at least one",
                remedy="read the log above",
            )
        page, results = _page(args, name, failed)
    if args.json:
        print_json({"page": str(page), "failed": failed, "seconds": seconds, "results": results})
    else:
        print(page)
    return DIFFERENT if failed or different else 0


def _common(args: argparse.Namespace, name: str) -> list[str]:
    """Arguments of all parts. The model is given as it was named, so that results say so."""
    heads = ["--heads", args.heads[0]] if args.heads and name == args.model else []
    path = [] if args.path is None else ["--path", str(args.path)]
    chosen = args.set or _default_set(args)
    words = ["--model", name, *heads, "--set", chosen, *path, "--style", args.style]
    numbers = ["--seed", str(args.seed), "--threads", str(args.threads)]
    return [*words, "--dtype", args.dtype, *numbers]


def _default_set(args: argparse.Namespace) -> str:
    from vllm_lmtp.eval.sets import SETS
    from vllm_lmtp.tools.tokenizer import has_tokenizer

    if args.path is not None and (args.path / SETS[SPEC_BENCH].file).is_file():
        return SPEC_BENCH
    if not has_tokenizer(args.model):
        return "stories"
    from transformers import AutoTokenizer

    chat = AutoTokenizer.from_pretrained(args.model).chat_template is not None
    return "questions" if chat else "stories"


def _measure(words: list[str]) -> int:
    """Run a part; what it prints is in its files, too."""
    command = [sys.executable, "-m", "vllm_lmtp.cli", *words]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode


def _page(args: argparse.Namespace, name: str, failed: dict[str, str]) -> tuple[Path, Any]:
    from vllm_lmtp.eval import parts, report

    found = {
        kind: report.read_result(args.output / f"{kind}.json")
        for kind in parts.KINDS
        if kind not in failed and (args.output / f"{kind}.json").is_file()
    }
    pages = {kind: report.render(result) for kind, result in found.items()}
    title = f"{Path(name).name}: heads, acceptance, losslessness and speed"
    text = parts.combine(title, pages, failed)
    page: Path = args.output / PAGE
    part = page.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, page)
    return page, sorted(found)
