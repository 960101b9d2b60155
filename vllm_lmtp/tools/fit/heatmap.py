"""The agreement of heads with offsets as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import whole_file
from vllm_lmtp.tools.fit.calibrate import Calibration, rows


def check_drawable(file: Path) -> None:
    """Refuse, before anything is measured, a picture that could not be drawn.

    Raises:
        LMTPError: matplotlib is missing, or there is no folder to write to.
    """
    _pyplot()
    if not file.parent.is_dir() or file.is_dir():
        raise refuse(
            str(file),
            "--plot",
            found="a folder" if file.is_dir() else f"no folder {file.parent}",
            expected="a file in a folder that is there",
            remedy="give another path, such as calibration.png",
        )


def draw(calibration: Calibration, file: Path) -> None:
    """Draw one row for each head, one column for each offset, as PNG; each head's peak is framed.

    Raises:
        LMTPError: the file cannot be written; what was there is then unchanged.
    """
    pyplot = _pyplot()
    names = [name for name, _ in rows(calibration)]
    rates = [[100 * rate for rate in values] for _, values in rows(calibration)]
    width, height = len(rates[0]), len(rates)
    figure, axis = pyplot.subplots(figsize=(1.6 + 0.55 * width, 1.5 + 0.45 * height))
    # The LM head, several times surer, would leave the heads' rows all pale.
    top = max(max(row) for row in rates[1:]) or 1.0
    picture = axis.imshow(rates, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    for y, row in enumerate(rates):
        for x, rate in enumerate(row):
            colour = "white" if rate > 0.6 * top else "black"
            axis.text(x, y, f"{rate:.0f}", ha="center", va="center", color=colour, fontsize=8)
        peak = row.index(max(row)) - 0.5
        axis.add_patch(pyplot.Rectangle((peak, y - 0.5), 1, 1, fill=False, edgecolor="red", lw=1.5))
    axis.set_xticks(range(width), [f"t+{offset}" for offset in range(1, width + 1)], fontsize=8)
    axis.set_yticks(range(height), names, fontsize=8)
    stride = calibration.finding.stride
    title = "no stride shown" if stride is None else f"stride {stride}"
    positions = calibration.lm_head.num_rows
    axis.set_title(f"Top-1 agreement in %, {positions} positions: {title}", fontsize=9)
    figure.colorbar(picture, ax=axis, extend="max")
    figure.tight_layout()
    try:
        save_picture(figure, file)
    finally:
        pyplot.close(figure)


def save_picture(figure: Any, file: Path, dpi: int = 100) -> None:
    """Write a figure as PNG.

    Raises:
        LMTPError: the file cannot be written; what was there is then unchanged.
    """
    try:
        with whole_file(file) as part:
            figure.savefig(part, dpi=dpi, format="png", metadata={"Software": None})
    except OSError as error:
        raise refuse(
            str(file),
            "--plot",
            found=f"cannot be written ({error.strerror or error})",
            expected="a place with room for a picture",
            remedy="free the space or give another path",
        ) from error


def _pyplot() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise refuse(
            "matplotlib",
            "import",
            found="no such module",
            expected="the package that draws pictures",
            remedy='pip install "vllm-lmtp[eval]", or leave --plot out',
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
