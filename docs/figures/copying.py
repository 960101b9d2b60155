"""Draws copying.png, a figure of docs/scorer.md: python docs/figures/copying.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

TEXT, HEADS, KNOWN = "#1f77b4", "#d97706", "#e5e7eb"
WIDTH, GAP, HIGH, LOW = 1.05, 1.2, 3.1, 0.4
WORDS = ("The", "copper", "kettle", "on", "the", "stove", ".", "...", "A", "copper", "kettle")
MATCH = (1, 2)  # where the newest two tokens stood before
DRAFT = (("on", "in", 0.42), ("the", "a", 0.51), ("stove", "fire", 0.60))  # SmolLM2's weights


def main() -> None:
    figure, axis = pyplot.subplots(figsize=(10.6, 4.6))
    last = len(WORDS) - 1
    for place, word in enumerate(WORDS):
        matched = place in MATCH or place >= last - 1
        _box(axis, place * GAP, HIGH, word, KNOWN, TEXT if matched else "black")
    axis.text(3 * GAP, HIGH + 0.95, "the request's own text: prompt and answer", ha="center")
    axis.text(last * GAP, HIGH + 0.95, "just sampled", ha="center", fontsize=9)
    for left in (MATCH[0] * GAP, (last - 1) * GAP):
        right = left + GAP
        xs = (left - 0.5, left - 0.5, right + 0.5, right + 0.5)
        axis.plot(xs, (HIGH - 0.42, HIGH - 0.55, HIGH - 0.55, HIGH - 0.42), color=TEXT, lw=1.6)
    axis.text((last - 0.5) * GAP, HIGH - 0.95, "match of 2", ha="center", color=TEXT, fontsize=10)
    axis.text(0.0, LOW + 1.02, "draft", ha="center", fontsize=10)
    for place, (copied, best, weight) in enumerate(DRAFT):
        x = (3.2 + 2.4 * place) * GAP
        _box(axis, x, LOW + 0.55, copied, "white", TEXT)
        _box(axis, x, LOW - 0.35, best, "white", HEADS)
        source = ((MATCH[1] + 1 + place) * GAP, HIGH - 0.4)
        axis.add_patch(
            FancyArrowPatch(
                source, (x, LOW + 0.95), color=TEXT, lw=1.4, arrowstyle="-|>", mutation_scale=11
            )
        )
        axis.text(x + 0.68, LOW + 0.5, f"w = {weight}", color=TEXT, fontsize=9, ha="left")
        axis.text(
            x + 0.68,
            LOW - 0.4,
            f"(1 - w) q = {(1 - weight) * 0.3:.2f}",
            color=HEADS,
            fontsize=9,
            ha="left",
        )
    axis.text(0.0, LOW + 0.5, "what it went on with", ha="center", color=TEXT, fontsize=10)
    axis.text(0.0, LOW - 0.4, "heads' best (q = 0.3)", ha="center", color=HEADS, fontsize=10)
    axis.set(xlim=(-1.6, (last + 1) * GAP), ylim=(LOW - 1.0, HIGH + 1.4))
    axis.axis("off")
    figure.tight_layout(pad=0.2)
    file = Path(__file__).with_suffix(".png")
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _box(axis: pyplot.Axes, x: float, y: float, text: str, fill: str, edge: str) -> None:
    corner = (x - WIDTH / 2, y - 0.33)
    style = "round,pad=0.0,rounding_size=0.12"
    axis.add_patch(FancyBboxPatch(corner, WIDTH, 0.66, boxstyle=style, fc=fill, ec=edge, lw=1.6))
    axis.text(x, y, text, ha="center", va="center", fontsize=11)


if __name__ == "__main__":
    main()
