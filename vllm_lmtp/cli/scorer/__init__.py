"""`vllm-lmtp scorer`: give heads a scorer, a counted table or a trained term, and calibrate it."""

from __future__ import annotations

import argparse

from vllm_lmtp.cli.scorer import add, build, calibrate, shrink, sweep


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `scorer` and its words."""
    parser = subparsers.add_parser("scorer", help="give heads a scorer", description=__doc__)
    words = parser.add_subparsers(title="words", metavar="WORD", required=True)
    for word in (build, add, shrink, calibrate, sweep):
        word.add_word(words)
