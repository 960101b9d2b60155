"""Draws draft.png, the figure of docs/scorer.md: python docs/figures/draft.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

HEADS = ("#1f77b4", "#d97706", "#2a9d4e")
KNOWN, DRAFTED = "#e5e7eb", "#ffffff"
WIDTH, GAP, TOP = 1.05, 1.5, 3.0
STATES = (0.7, -0.6)  # how high the states at lag 0 and 1 stand, so that no line crosses a box


def main() -> None:
    figure, axis = pyplot.subplots(figsize=(10.2, 4.9))
    names = ("$t-1$", "$t$", "$t+1$", *(f"$t+{n}$" for n in range(2, 8)))
    words = ("was", "a", "little", *("girl", "named", "Lily", ".", "She", "loved"))
    for place, (name, word) in enumerate(zip(names, words, strict=True)):
        edge = "black" if place < 3 else HEADS[(place - 3) // 2]
        _box(axis, place * GAP, TOP, word, KNOWN if place < 3 else DRAFTED, edge)
        axis.text(place * GAP, TOP + 0.95, name, ha="center", fontsize=10)
        if place > 2:
            axis.text(place * GAP, TOP + 0.47, str(place - 2), ha="center", fontsize=8, color=edge)
    for lag, name in ((1, "$h_{t-1}$"), (0, "$h_t$")):
        x, y = (1 - lag) * GAP, STATES[lag]
        _box(axis, x, y, name, KNOWN, "black")
        _arrow(axis, (x, TOP - 0.4), (x, y + 0.4), "grey", 0.0)
        for head, colour in enumerate(HEADS):
            place = 3 + 2 * head + (1 - lag)
            start = (x + WIDTH / 2, y + 0.12 - 0.12 * head)
            style = "--" if lag else "-"
            _arrow(axis, start, (place * GAP, TOP - 0.4), colour, 0.2, style)
    for place in range(2, 8):
        start = (place * GAP + WIDTH / 2, TOP)
        _arrow(axis, start, ((place + 1) * GAP - WIDTH / 2, TOP), "black", 0.0, "-", 2.2)
    axis.text(2.5 * GAP, TOP + 1.65, "scorer: what follows this token?", ha="left", fontsize=10)
    _arrow(axis, (2.9 * GAP, TOP + 1.55), (2.5 * GAP, TOP + 0.1), "black", 0.1, ":", 0.9)
    axis.text(GAP, TOP + 1.65, "known", ha="center", fontsize=10)
    axis.text(2 * GAP, TOP + 1.3, "just sampled", ha="center", fontsize=9)
    axis.text(6.9 * GAP, TOP + 1.65, "drafted, in this order", ha="center", fontsize=10)
    for head, colour in enumerate(HEADS):
        text = f"head {head}: {3 + 2 * head} tokens on from the state read"
        axis.text(6.0 * GAP, -0.2 - 0.42 * head, text, color=colour, fontsize=10)
    axis.set(xlim=(-0.8, 8 * GAP + 0.8), ylim=(-1.2, TOP + 2.1))
    axis.axis("off")
    figure.tight_layout(pad=0.2)
    file = Path(__file__).with_suffix(".png")
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _box(axis: pyplot.Axes, x: float, y: float, text: str, fill: str, edge: str) -> None:
    corner = (x - WIDTH / 2, y - 0.33)
    style = "round,pad=0.0,rounding_size=0.12"
    axis.add_patch(FancyBboxPatch(corner, WIDTH, 0.66, boxstyle=style, fc=fill, ec=edge, lw=1.6))
    axis.text(x, y, text, ha="center", va="center", fontsize=11)


def _arrow(
    axis: pyplot.Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    bend: float,
    style: str = "-",
    width: float = 1.4,
) -> None:
    shape = {"arrowstyle": "-|>", "connectionstyle": f"arc3,rad={bend}", "mutation_scale": 11}
    axis.add_patch(FancyArrowPatch(start, end, color=colour, lw=width, ls=style, **shape))


if __name__ == "__main__":
    main()
