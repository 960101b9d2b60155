"""`vllm-lmtp patches`: what this package changes in vLLM, why, and until when."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from vllm_lmtp.cli.shared.output import add_json_flag, print_json


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `patches`."""
    parser = subparsers.add_parser(
        "patches", help="list the changes made to vLLM", description=__doc__
    )
    parser.add_argument("--markdown", action="store_true", help="print docs/patches.md")
    add_json_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the patches; vLLM itself is not imported."""
    if args.json:
        print_json(describe())
    elif args.markdown:
        from vllm_lmtp.patches.page import render

        print(render(), end="")
    else:
        print(_render_text(), end="")
    return 0


def describe() -> list[dict[str, Any]]:
    """Every patch as plain values, in the order in which they are applied."""
    from vllm_lmtp.patches import PATCHES

    return [
        {
            "name": patch.name,
            "why": patch.why,
            "bindings": [str(binding) for binding in patch.bindings],
            "vllm": patch.vllm,
            "written_against": patch.written_against,
            "upstream": patch.upstream,
            "remove_when": patch.remove_when,
        }
        for patch in PATCHES
    ]


def _render_text() -> str:
    blocks = []
    for patch in describe():
        fields = [("why", patch["why"])]
        fields += [("changes", binding) for binding in patch["bindings"]]
        fields += [
            ("versions", _versions(patch)),
            ("upstream", patch["upstream"]),
            ("remove when", patch["remove_when"]),
        ]
        blocks.append("\n".join([patch["name"], *(_field(name, text) for name, text in fields)]))
    return "\n\n".join(blocks) + "\n"


def _field(name: str, text: str) -> str:
    indent = " " * 15
    return textwrap.fill(
        f"  {name:<13}{text}", 100, subsequent_indent=indent, break_long_words=False
    )


def _versions(patch: dict[str, Any]) -> str:
    return patch["vllm"] or "all, so that it can refuse those that are not supported"
