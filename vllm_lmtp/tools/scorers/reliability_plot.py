"""The reliability diagram of a calibration as a picture."""

from __future__ import annotations

from pathlib import Path

from vllm_lmtp.tools.fit.heatmap import check_drawable, save_picture
from vllm_lmtp.tools.scorers.confidence import Calibration
from vllm_lmtp.tools.scorers.reliability import expected_error

__all__ = ["check_drawable", "draw"]


def draw(found: Calibration, file: Path) -> None:
    """Draw one panel a place, the share that was right over the confidence stated, as PNG.

    Raises:
        LMTPError: the file cannot be written; what was there is then unchanged.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(found.places), 3)
    lines = -(-len(found.places) // columns)
    figure, axes = pyplot.subplots(
        lines,
        columns,
        figsize=(2.9 * columns, 2.9 * lines),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for number, axis in enumerate(axes.flat):
        if number >= len(found.places):
            axis.axis("off")
            continue
        place = found.places[number]
        axis.plot([0, 1], [0, 1], color="grey", lw=0.8)
        for name, bins in (("as stated", place.before), ("calibrated", place.after)):
            label = f"{name}, ECE {expected_error(bins):.3f}"
            axis.plot([b.stated for b in bins], [b.seen for b in bins], "o-", ms=3, label=label)
        count = sum(b.count for b in place.after)
        axis.set_title(f"place {number}, {count} observations", fontsize=8)
        axis.legend(fontsize=6, loc="upper left")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
    for axis in axes[-1]:
        axis.set_xlabel("confidence", fontsize=8)
    for line in axes:
        line[0].set_ylabel("share that was right", fontsize=8)
    figure.tight_layout()
    try:
        save_picture(figure, file, dpi=90)
    finally:
        pyplot.close(figure)
