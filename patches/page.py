"""Renders docs/patches.md from the records.

Run `python -m vllm_lmtp.patches.page > docs/patches.md` after a change to any of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vllm_lmtp.patches import PATCHES, SUPPORTED_VLLM, Patch

HEAD = f"""\
<!-- Made from the records in patches/ by `python -m vllm_lmtp.patches.page`; do not edit. -->

# The changes made to vLLM

vLLM {SUPPORTED_VLLM} has no way to register a drafter, so this package changes it in the
{{count}} places below. A change wraps what it finds and calls it, or gives
what a call gave before; it never holds vLLM's code. It is made when
vLLM imports the module, and passes everything through unless leap heads are asked for or a
stage-1 checkpoint is served.

| Patch | Bindings | Removed when |
|---|---|---|
"""


def render() -> str:
    """The page as Markdown."""
    count = sum(len(patch.bindings) for patch in PATCHES)
    rows = "".join(_row(patch) for patch in PATCHES)
    sections = "".join(_section(patch) for patch in PATCHES)
    return HEAD.format(count=count) + rows + sections


def file_of(patch: Patch) -> Path:
    """The patch's file, from the folder that holds `patches/`.

    Raises:
        ValueError: there is none, or several.
    """
    folder = Path(__file__).parent
    (file,) = folder.rglob(f"{patch.name}.py")
    return file.relative_to(folder.parent)


def _row(patch: Patch) -> str:
    return f"| [{patch.name}](#{patch.name}) | {len(patch.bindings)} | {patch.remove_when} |\n"


def _section(patch: Patch) -> str:
    bindings = "".join(f"- `{binding}`\n" for binding in patch.bindings)
    return f"""
## {patch.name}

{patch.why}

{bindings}
File: `{file_of(patch)}`.
vLLM versions: {patch.vllm or "all, so that an unsupported one can be refused"}.
Written against: {patch.written_against}.
Upstream: {patch.upstream}.
Remove when: {patch.remove_when}.
"""


if __name__ == "__main__":
    argparse.ArgumentParser(prog="vllm_lmtp.patches.page", description=__doc__).parse_args()
    print(render(), end="")
