"""The rooms stay rooms: few modules at the top, none overfull, imports in one direction."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_AT_TOP, MOST_IN_ROOM = 8, 20


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over a tree, with the contracts of its pyproject.toml."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=tree,
        env={"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code, its links followed."""
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.json")
    shutil.copytree(ROOT / "vllm_lmtp", tmp_path / "vllm_lmtp", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold(tree: Path) -> None:
    done = lint_imports(tree)
    assert done.returncode == 0, done.stdout
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("method/leap.py", "from vllm_lmtp.formats.hub import resolve_folder"),
        ("method/leap.py", "import vllm"),
        ("length/worth.py", "import torch"),
        ("formats/hub.py", "from vllm_lmtp.formats import files"),
        ("training/data/rows.py", "from vllm_lmtp.tools.folders.save import save_folder"),
        ("eval/statistics.py", "from vllm_lmtp.cli.shared.output import print_json"),
        ("runner_v1/slots.py", "from vllm_lmtp.runner_v2.seeded import SeededDraw"),
    ],
)
def test_a_broken_contract_is_seen(tree: Path, module: str, line: str) -> None:
    file = tree / "vllm_lmtp" / module
    file.write_text(f"{file.read_text()}\n{line}\n")
    done = lint_imports(tree)
    assert done.returncode == 1, done.stdout
    assert "0 broken" not in done.stdout


def test_no_room_is_overfull() -> None:
    assert len(list((ROOT / "vllm_lmtp").glob("*.py"))) <= MOST_AT_TOP
    tops = [ROOT / name for name in ("vllm_lmtp", "eval", "patches", "tests")]
    rooms = {file.parent for top in tops for file in top.rglob("*.py")}
    assert len(rooms) > len(tops)
    counts = {room: len(list(room.glob("*.py"))) for room in rooms}
    assert {room: n for room, n in counts.items() if n > MOST_IN_ROOM} == {}
