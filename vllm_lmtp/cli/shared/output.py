"""What every command does with stdout and stderr: results to the one, all else to the other."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from typing import Any

from vllm_lmtp.errors import LMTPError


def add_json_flag(parser: argparse.ArgumentParser, default: Any = argparse.SUPPRESS) -> None:
    """Add `--json`. Only the outermost parser sets a default, so the flag may stand anywhere."""
    parser.add_argument(
        "--json",
        action="store_true",
        default=default,
        help="one JSON value on stdout, logs on stderr",
    )


def print_json(value: Any) -> None:
    """Write `value` to stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)


def print_table(rows: Sequence[Sequence[object]], headers: Sequence[str], title: str = "") -> None:
    """Write a table to stdout, under a title and followed by an empty line.

    Cells are printed as they come: format numbers first, as floats would lose their digits.
    """
    from tabulate import tabulate

    if title:
        print(title)
    print(tabulate(rows, headers=headers, disable_numparse=True, tablefmt="simple"))
    print()


def print_progress(text: str) -> None:
    """Say on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


def print_refusals(error: LMTPError, as_json: bool) -> None:
    """Report an error: words on stderr, and with `--json` the refusals on stdout."""
    print(f"error: {error}", file=sys.stderr)
    if as_json:
        print_json({"error": str(error), "refusals": [asdict(r) for r in error.refusals]})


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """While it lasts, whatever this process or its children print goes to stderr.

    The file descriptor goes too, since vLLM's C++ parts and its child processes print as well.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def stride_argument(text: str) -> int:
    """A stride from the command line.

    Raises:
        argparse.ArgumentTypeError: not an integer from 1 to the largest stride served.
    """
    from vllm_lmtp.formats.checkpoint import MAX_STRIDE

    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_STRIDE:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 1 to {MAX_STRIDE}")


def positive_argument(text: str) -> int:
    """A positive integer from the command line.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")


def above_zero_argument(text: str) -> float:
    """A finite number above 0 from the command line.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
