"""Arguments that several measuring commands take, each worded once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vllm_lmtp.cli.shared.output import add_json_flag, positive_argument

DTYPES = ("float32", "bfloat16", "float16", "auto")
STYLES = ("auto", "chat", "raw")
TINY = "tiny"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which target, and which heads are compared on it."""
    add = parser.add_argument
    add(
        "--model",
        metavar="MODEL",
        default=TINY,
        help="the target: folder or id; tiny, the embedded one (default); smollm2, a chat model, "
        "or gemma3-270m, fetched once",
    )
    add(
        "--heads",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="heads to measure; several are compared; the model's own when left out",
    )


def add_set_arguments(parser: argparse.ArgumentParser) -> None:
    """Where prompts come from, and how they are put to the model."""
    add = parser.add_argument
    add(
        "--set",
        metavar="NAME",
        help="stories, questions, gsm8k_test, mt_bench, spec_bench, humaneval, mbpp_test, "
        "speed_bench_qualitative, speed_bench_throughput_1k (2k, 8k, 16k, 32k), or a "
        'JSONL file whose rows have "prompt" or "tokens"; default: stories, and of a whole report '
        "spec_bench where --path has it, else a small one of ours",
    )
    add(
        "--path",
        type=Path,
        metavar="DIR",
        help="holds local copies of the sets, such as gsm8k_test.jsonl; else they are fetched",
    )
    add(
        "--style", choices=STYLES, default="auto", help="default: the chat template if there is one"
    )


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """How many prompts, and how long they and their answers may be."""
    add = parser.add_argument
    add("--limit", type=positive_argument, metavar="N", help="prompts of each group, evenly spread")
    add(
        "--longest",
        type=positive_argument,
        metavar="N",
        help="leave out prompts of more tokens; the model's context when left out",
    )
    add(
        "--max-tokens",
        type=positive_argument,
        default=128,
        metavar="N",
        help="default: %(default)s",
    )


def add_dtype_argument(parser: argparse.ArgumentParser) -> None:
    """The engine's dtype."""
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the engine; default: float32"
    )


def add_run_arguments(parser: argparse.ArgumentParser, output_required: bool = False) -> None:
    """What every measurement ends with: how it runs, and where its result goes."""
    add_dtype_argument(parser)
    add = parser.add_argument
    add("--seed", type=int, default=0, metavar="N", help="of the first prompt; default: 0")
    add(
        "--threads",
        type=positive_argument,
        default=os.cpu_count() or 1,
        metavar="N",
        help="CPU threads; default: %(default)s",
    )
    add(
        "--output",
        type=Path,
        required=output_required,
        metavar="DIR",
        help="write JSON, Markdown and pictures here",
    )
    add_json_flag(parser)


def add_option_argument(parser: argparse.ArgumentParser) -> None:
    """More of lmtp's speculative config."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another key of lmtp's speculative config, such as num_speculative_tokens=2",
    )
