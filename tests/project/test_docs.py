"""What documents name is there: links and anchors resolve, modules that are run can be run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
RUN = re.compile(r"-m (vllm_lmtp[a-z0-9_.]*[a-z0-9_])")


def listed(*patterns: str) -> list[Path]:
    """Files that git tracks, or every one where there is no git."""
    done = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return [ROOT / name for name in done.stdout.split()]
    tops = ("docs", "eval", "patches", "configs", "vllm_lmtp", "tests")
    return [f for top in tops for p in patterns for f in (ROOT / top).rglob(p)]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", h).lower().strip() for h in headings]
    return {re.sub(r"[^\w\- ]", "", h).replace(" ", "-") for h in plain}


def test_links_resolve() -> None:
    checked, broken = 0, []
    for page in listed("*.md"):
        for target in LINK.findall(page.read_text()):
            if re.match(r"[a-z]+:", target):
                continue
            checked += 1
            name, _, anchor = target.partition("#")
            file = page if not name else (page.parent / name)
            missing = not file.exists() or (
                anchor and file.suffix == ".md" and anchor not in anchors(file)
            )
            if missing:
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert checked > 100
    assert broken == []


def named_modules() -> list[str]:
    """Every module that a page, a configuration or the Makefile runs with `python -m`.

    Result folders, the log and the changelog name what was run when they were written.
    """
    old = ("docs/results/", "eval/LOG.md", "CHANGELOG.md")
    files = listed("*.md", "*.yaml", "*.sh", "Makefile", ".ci/*")
    now = [f for f in files if not re.match(r"docs/results/.*/", str(f.relative_to(ROOT)))]
    now = [f for f in now if not str(f.relative_to(ROOT)).startswith(old[1:])]
    return sorted({name for f in now for name in RUN.findall(f.read_text())})


@pytest.mark.parametrize("module", named_modules())
def test_modules_that_documents_run_explain_themselves(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_documents_do_run_modules() -> None:
    assert {"vllm_lmtp.cli", "vllm_lmtp.patches.page"} <= set(named_modules())
