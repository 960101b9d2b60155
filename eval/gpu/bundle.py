"""Whether a folder that was packed for a GPU machine has what this package imports.

    python -m vllm_lmtp.eval.gpu.bundle SITE --there torch transformers triton numpy

For machines without a package index: SITE is put first on PYTHONPATH there. Nothing of it is
imported here, where its libraries could not load: the sources are read.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vllm_lmtp.errors import LMTPError, Refusal, raise_refusals

PACKAGE = "vllm_lmtp"
LIBRARIES = (
    "vllm/_C_stable_libtorch.abi3.so",
    "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so",
)
OPTIONAL = ("ray", "tensorboard", "tensorboardX", "wandb", "lm_eval", "gguf", "peft")
"""Of what the package imports, what a run on one GPU does without."""


def check(site: Path, there: Sequence[str]) -> int:
    """Refuse a folder that lacks anything.

    Args:
        there: top-level packages that the machine has already.

    Returns:
        How many modules of ours were read.

    Raises:
        LMTPError: libraries or imported modules that are missing, all at once.
    """
    remedy = "pack them, or name what the machine has with --there"
    faults = [
        Refusal(str(site), name, "no such file", "a library of vLLM", remedy)
        for name in LIBRARIES
        if not (site / name).is_file()
    ]
    known = {*sys.stdlib_module_names, *there, *OPTIONAL}
    files = sorted((site / PACKAGE).rglob("*.py"))
    if not files:
        faults.append(Refusal(str(site), PACKAGE, "no such package", "this package", remedy))
    missing: dict[str, str] = {}
    for file in files:
        for module in imported(ast.parse(file.read_text(encoding="utf-8"))):
            if module.partition(".")[0] not in known and not _has(site, module):
                missing.setdefault(module, str(file.relative_to(site)))
    for module, importer in sorted(missing.items()):
        found = f"nothing, but {importer} imports it"
        faults.append(Refusal(str(site), module, found, "the module", remedy))
    raise_refusals(faults)
    return len(files)


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules that a source names, those of a function's own imports too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _has(site: Path, module: str) -> bool:
    way = site.joinpath(*module.split("."))
    candidates: Iterable[Path] = (way.with_suffix(".py"), way / "__init__.py")
    return any(file.is_file() for file in candidates) or any(
        way.parent.glob(f"{way.name}.*.so") if way.parent.is_dir() else ()
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Check, and say what is there. Returns 1 if anything is missing."""
    parser = argparse.ArgumentParser(prog="vllm_lmtp.eval.gpu.bundle", description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("--there", nargs="*", default=[], metavar="PACKAGE")
    args = parser.parse_args(argv)
    try:
        count = check(args.site, args.there)
    except LMTPError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count} modules of {PACKAGE}: all that they import is there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
