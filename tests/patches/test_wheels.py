"""What we assume about vLLM, put to the released wheels of every version that is served."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.patches.assumptions import ASSUMPTIONS
from tests.patches.sources import Sources
from vllm_lmtp.compat import is_supported

VERSIONS = ("0.32.0", "0.33.0")
# The Linux wheel holds all of vLLM's Python files, whatever machine the test runs on.
PLATFORM = ("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_31_x86_64")

pytestmark = [pytest.mark.wheels, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=VERSIONS)
def released(request: pytest.FixtureRequest) -> Sources:
    """The Python files of one released version, kept in pytest's cache."""
    folder = Path(request.config.cache.mkdir("vllm-sources")) / request.param
    if not folder.is_dir():
        wheel = download(request.param, Path(request.config.cache.mkdir("vllm-wheels")))
        unfinished = folder.with_suffix(".part")
        with zipfile.ZipFile(wheel) as archive:
            sources = [name for name in archive.namelist() if name.endswith(".py")]
            archive.extractall(unfinished, sources)
        unfinished.rename(folder)
        wheel.unlink()
    return Sources(folder)


def download(version: str, into: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into)]
    options = ["--only-binary", ":all:", *PLATFORM]
    done = subprocess.run(
        [*pip, *options, f"vllm=={version}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        pytest.skip(f"the wheel of vLLM {version} cannot be downloaded: {reason[0]}")
    (wheel,) = into.glob(f"vllm-{version}-*.whl")
    return wheel


def test_these_are_versions_we_serve() -> None:
    assert all(is_supported(version) for version in VERSIONS)


@pytest.mark.parametrize("assumption", ASSUMPTIONS, ids=lambda check: check.__name__)
def test_released_vllm_is_as_we_assume(released: Sources, assumption: Any) -> None:
    assumption(released)
