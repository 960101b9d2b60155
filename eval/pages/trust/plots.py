"""Pictures of `eval exact` and `eval soak`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEIGHT = 3.6
WIDTH = 5.2


def draw_exact(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """Accepted and refused tokens by place, of each way of drafting."""
    variants = result["variants"]
    figure, axes = pyplot.subplots(
        1, len(variants), figsize=(WIDTH * max(1, len(variants)), HEIGHT), squeeze=False
    )
    for axis, v in zip(axes[0], variants, strict=True):
        rows = v["by_place"]
        places = range(1, len(rows) + 1)
        accepted = [row["accepted"] for row in rows]
        axis.bar(places, accepted, label="accepted")
        axis.bar(places, [row["refused"] for row in rows], bottom=accepted, label="refused")
        title = f"{v['name']}: {v['different']} of {v['requests']} answers differ"
        axis.set(title=title, xlabel="place of the draft", ylabel="tokens")
        axis.title.set_fontsize(9)
        axis.legend(fontsize=7)
    return figure


def draw_soak(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """Memory over time, and how many answers took how long."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(2 * WIDTH, HEIGHT))
    for colour, server in zip(("C0", "C1"), result["servers"], strict=True):
        series = server["memory"]["series"]
        minutes = [at / 60 for at, _, _ in series]
        for place, style in ((1, "-"), (2, ":")):
            grown = [point[place] - series[0][place] for point in series]
            kind = "resident" if place == 1 else "own"
            left.plot(minutes, grown, style, color=colour, label=f"{server['name']}, {kind}")
        times = [ms for ms in server["times"]["all"] if ms is not None]
        right.plot(
            [ms / 1e3 for ms in times], range(1, 1 + len(times)), label=server["name"], color=colour
        )
    left.set(title="Memory of all processes since the start", xlabel="minutes", ylabel="MiB more")
    right.set(title="Answers within a time", xlabel="seconds", ylabel="% of answers")
    right.set_xscale("log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return figure
