"""Results as files: JSON that holds everything, Markdown made from that JSON alone, a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.eval.pages import (
    acceptance,
    heads,
    lossless,
    quality,
    scaling,
    serve,
    speed,
    sweep,
    tune,
)
from vllm_lmtp.eval.pages.peer_files import write_peer_files
from vllm_lmtp.eval.pages.trust import exact, soak
from vllm_lmtp.formats.whole import whole_file, write_json, write_text

PAGES = {
    "heads": heads.page,
    "acceptance": acceptance.page,
    "lossless": lossless.page,
    "speed": speed.page,
    "tune": tune.page,
    "serve": serve.page,
    "quality": quality.page,
    "scaling": scaling.page,
    "sweep": sweep.page,
    "exact": exact.page,
    "soak": soak.page,
}


def render(result: Mapping[str, Any]) -> str:
    """The Markdown page of a result."""
    return PAGES[result["kind"]](result)


def read_result(file: Path) -> dict[str, Any]:
    """A result as `save` wrote it.

    Raises:
        LMTPError: the file is not one.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise refuse(
            str(file),
            "content",
            found=f"unreadable ({error})",
            expected="the JSON file of an `eval` command",
            remedy="check the path",
        ) from error
    kind = result.get("kind") if isinstance(result, dict) else None
    if kind not in PAGES:
        raise refuse(
            str(file),
            "kind",
            found=repr(kind),
            expected=" or ".join(PAGES),
            remedy="give a JSON file that an `eval` command wrote",
        )
    return dict(result)


def check_output(folder: Path) -> None:
    """Make the folder of the results, before anything is measured.

    Raises:
        LMTPError: it cannot be made, or matplotlib is missing.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise refuse(
            "matplotlib",
            "import",
            found="no such module",
            expected="the package that draws pictures",
            remedy='pip install "vllm-lmtp[eval]", or leave --output out',
        ) from error
    matplotlib.use("Agg")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refuse(
            str(folder),
            "--output",
            found=f"cannot be made ({error.strerror or error})",
            expected="a folder that may be written to",
            remedy="give another path",
        ) from error


def save(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `<kind>.json`, `<kind>.md` and `<kind>.png`, for heads their trees as
    `heads_tree.png`, and for acceptance what other tools read; each file appears whole.

    Raises:
        LMTPError: the folder cannot be written to.
    """
    from vllm_lmtp.eval.pages.plots import draw, draw_trees

    base = folder / result["kind"]
    files = [base.with_suffix(suffix) for suffix in (".json", ".md", ".png")]
    try:
        write_json(files[0], dict(result))
        write_text(files[1], render(result))
        with whole_file(files[2]) as part:
            draw(result, part)
        if result["kind"] == "heads":
            files.append(base.with_name("heads_tree.png"))
            with whole_file(files[3]) as part:
                draw_trees(result, part)
        if result["kind"] == "acceptance":
            files += write_peer_files(result, folder)
    except OSError as error:
        raise refuse(
            str(folder),
            "--output",
            found=f"cannot be written to ({error.strerror or error})",
            expected="a folder with room",
            remedy="free the space or give another path",
        ) from error
    return files
