"""What a stranger installs: a wheel and a source archive, each in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from vllm_lmtp import __version__

ROOT = Path(__file__).parents[2]
BUILD = (
    "import sys, setuptools.build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"
)


def _run(command: Sequence[object], cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows: building leaves others in the tree, and takes what lies there."""
    tree = tmp_path_factory.mktemp("tree")
    _run(["git", "checkout-index", "-a", f"--prefix={tree}/"], ROOT)
    return tree


@pytest.mark.wheels
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installed_in_a_fresh_environment(kind: str, tree: Path, tmp_path: Path) -> None:
    built = _run([sys.executable, "-c", BUILD, kind, tmp_path], tree).stdout.split()[-1]
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    _run([python, "-m", "pip", "install", "-q", tmp_path / built], tmp_path)
    command = python.with_name("vllm-lmtp")
    facts = json.loads(_run([command, "--version", "--json"], tmp_path).stdout)
    assert facts["vllm_lmtp"] == __version__

    where = _run([python, "-c", "import vllm_lmtp; print(vllm_lmtp.__path__[0])"], tmp_path)
    package = Path(where.stdout.strip())
    brought = {found.name for found in package.parent.iterdir()}
    assert not brought & {"tests", "eval", "patches", "docs", "configs"}
    files = {str(f.relative_to(package)) for f in package.rglob("*.py")}
    ours = {str(f.relative_to(tree / "vllm_lmtp")) for f in _sources(tree / "vllm_lmtp")}
    assert files == ours
    # vLLM is not there, and nothing says so by a traceback.
    said = _run([command, "inspect", package / "checkpoints" / "tiny"], tmp_path, code=2).stderr
    assert "no torch" in said
    assert "install vLLM" in said


def _sources(folder: Path) -> list[Path]:
    """Links followed, which rglob does not do before Python 3.13."""
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _sources(entry)
        elif entry.suffix == ".py":
            found.append(entry)
    return found
