"""Results as pictures. The caller has chosen matplotlib's backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_lmtp.eval.pages.speed_plots import draw_serve, draw_speed, draw_tune
from vllm_lmtp.eval.pages.sweep_plots import draw_sweep
from vllm_lmtp.eval.pages.trust.plots import draw_exact, draw_soak

HEIGHT = 3.6
WIDTH = 5.2


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Draw one result as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib import pyplot

    drawings = {
        "heads": _heads,
        "acceptance": _acceptance,
        "lossless": _lossless,
        "speed": draw_speed,
        "tune": draw_tune,
        "serve": draw_serve,
        "quality": _quality,
        "scaling": _scaling,
        "sweep": draw_sweep,
        "exact": draw_exact,
        "soak": draw_soak,
    }
    figure = drawings[result["kind"]](pyplot, result)
    try:
        figure.tight_layout()
        figure.savefig(file, dpi=100, format="png", metadata={"Software": None})
    finally:
        pyplot.close(figure)


def _quality(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """A bar of each way of serving for each score."""
    found = result["scores"]
    names = list(dict.fromkeys(name for s in found for name in s["scores"]))
    figure, axis = pyplot.subplots(figsize=(2 * WIDTH, max(HEIGHT, 0.4 * len(names))))
    width = 0.8 / len(found)
    for number, s in enumerate(found):
        places = [place + number * width for place in range(len(names))]
        values = [s["scores"].get(name, 0.0) for name in names]
        axis.barh(places, values, height=width, label=s["method"])
    axis.set_yticks([place + 0.4 - width / 2 for place in range(len(names))], names, fontsize=7)
    axis.invert_yaxis()
    axis.set(title="Scores with and without speculation", xlabel="score")
    axis.legend(fontsize=7)
    return figure


def _scaling(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """Held-out accuracy over the tokens of the training text, of each offset that has a slope."""
    figure, axis = pyplot.subplots(figsize=(1.8 * WIDTH, HEIGHT))
    sloped = [offset for offset, gains in result["doubling"].items() if gains["top1"] is not None]
    for number, offset in enumerate(sloped or result["doubling"]):
        for top, style in (("top1", "-o"), ("top10", ":s")):
            spots = [
                (point["tokens"], 100 * point["offsets"][offset][top])
                for point in result["points"]
                if top in point["offsets"].get(offset, {})
            ]
            label = f"offset {offset}, top-{top[3:]}"
            axis.plot(*zip(*spots, strict=True), style, color=f"C{number}", label=label)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda tokens, _: f"{tokens / 1000:,.0f} k")
    axis.set(title="Held-out accuracy", xlabel="tokens of training text", ylabel="%")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _heads(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """For each temperature: accuracies at each head's own offset with the fitted attenuation, and
    how far chains get."""
    parts = result["temperatures"]
    figure, axes = pyplot.subplots(
        len(parts), 2, figsize=(2 * WIDTH, HEIGHT * len(parts)), squeeze=False
    )
    for (left, right), part in zip(axes, parts, strict=True):
        for number, heads in enumerate(part["heads"]):
            colour, found = f"C{number}", heads["all"]
            for top, style in (("top1", "-o"), ("top10", ":s")):
                left.errorbar(
                    [e["offset"] for e in found["own_offset"]],
                    [100 * (e[top]["rate"] or 0) for e in found["own_offset"]],
                    [100 * (e[top]["se"] or 0) for e in found["own_offset"]],
                    fmt=style,
                    color=colour,
                    label=f"{heads['name']}, top-{top[3:]}",
                    markersize=4,
                )
            g = found["lengths"]["attenuation"]
            if g is not None:
                last = max(e["offset"] for e in found["own_offset"])
                xs = [1 + i * (last - 1) / 60 for i in range(61)]
                ys = [100 * math.exp(-g * (x - 1)) for x in xs]
                left.plot(xs, ys, "--", color=colour, lw=1, label=f"exp(-{g:.3f}(i - 1))")
            for top, style in (("top1", "-o"), ("top10", ":s")):
                reached = found["chains"][top]["reached"]
                right.plot(
                    range(2, len(reached) + 2),
                    [100 * (r["rate"] or 0) for r in reached],
                    style,
                    color=colour,
                    markersize=4,
                    label=heads["name"]
                    + (", best token" if top == "top1" else ", right one of 10"),
                )
        title = f"T = {part['temperature']:g}"
        left.set(title=f"Accuracy, {title}", xlabel="offset", ylabel="%", ylim=(0, 102))
        right.set(title=f"Chain unbroken up to, {title}", xlabel="offset", ylabel="% of steps")
        right.set_ylim(bottom=0)
        for axis in (left, right):
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7)
    return figure


def draw_trees(result: Mapping[str, Any], file: Path) -> None:
    """Draw the best static tree of each pair of heads at the first temperature as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib import pyplot

    part = result["temperatures"][0]
    count = len(part["heads"])
    figure, axes = pyplot.subplots(count, 1, figsize=(2 * WIDTH, HEIGHT * count), squeeze=False)
    for (axis,), heads in zip(axes, part["heads"], strict=True):
        paths = sorted(tuple(node) for node in heads["all"]["tree"]["nodes"])
        spots = _spots(paths)
        first = [spots[path][0] for path in paths if len(path) == 1]
        spots[()] = (sum(first) / max(1, len(first)), 0.0)
        for path in paths:
            (x, y), (above_x, above_y) = spots[path], spots[path[:-1]]
            axis.plot([above_x, x], [above_y, y], "-", color="C0", lw=0.8)
            axis.text(
                x,
                y,
                path[-1] + 1,
                ha="center",
                va="center",
                fontsize=7,
                bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "C0", "lw": 0.8},
            )
        depths = range(max(map(len, paths), default=0) + 1)
        axis.set_yticks([-d for d in depths], ["known", *(f"t+{d + 1}" for d in depths[1:])])
        axis.set_xticks([])
        lengths = heads["all"]["tree"]["lengths"]
        worth = f"{lengths[-1]:.2f} tokens a step" if lengths else "nothing"
        temperature = part["temperature"]
        axis.set_title(
            f"{heads['name']}, T = {temperature:g}: best static tree of {len(paths)} guesses "
            f"(which guess for its place), {worth} expected",
            fontsize=9,
        )
    try:
        figure.tight_layout()
        figure.savefig(file, dpi=100, format="png", metadata={"Software": None})
    finally:
        pyplot.close(figure)


def _spots(paths: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[float, float]]:
    """Where each node is drawn: leaves side by side, others over the middle of their branches."""
    spots: dict[tuple[int, ...], tuple[float, float]] = {}
    leaf = 0
    for path in sorted(paths, key=lambda p: (-len(p), p)):
        if not any(len(p) == len(path) + 1 and p[:-1] == path for p in paths):
            spots[path] = (0.0, -float(len(path)))
    for path in paths:
        if path in spots:
            spots[path] = (float(leaf), spots[path][1])
            leaf += 1
    for path in sorted(paths, key=len, reverse=True):
        below = [spots[p][0] for p in paths if len(p) == len(path) + 1 and p[:-1] == path]
        if below:
            spots[path] = (sum(below) / len(below), -float(len(path)))
    return spots


def _acceptance(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """For each temperature: acceptance by place, lengths by group, and the requests' lengths."""
    variants = result["variants"]
    temperatures = range(len(variants[0]["temperatures"]))
    figure, axes = pyplot.subplots(
        len(temperatures),
        3,
        figsize=(3.4 * WIDTH, HEIGHT * len(temperatures)),
        squeeze=False,
        width_ratios=(1, 1.9, 1),
    )
    for row, number in zip(axes, temperatures, strict=True):
        left, middle, right = row
        found = [(v["name"], v["temperatures"][number]) for v in variants]
        groups = list(dict.fromkeys(group for _, f in found for group in f["by_group"]))
        width = 0.8 / len(found)
        for place, (name, f) in enumerate(found):
            positions = f["all"]["by_position"]
            left.plot(
                [p["offset"] for p in positions],
                [100 * (p["rate"] or 0) for p in positions],
                "-o",
                markersize=4,
                label=name,
            )
            columns = groups if len(groups) > 1 else []
            shown = [*columns, "overall"]
            lengths = [f["by_group"].get(g, {}).get("token_weighted", {}) for g in columns]
            lengths.append(f["all"]["token_weighted"])
            middle.bar(
                [i + (place - (len(found) - 1) / 2) * width for i in range(len(shown))],
                [entry.get("value") or 0 for entry in lengths],
                width,
                yerr=[entry.get("se") or 0 for entry in lengths],
                label=name,
            )
            bins = f["all"]["request_histogram"]
            total = sum(b["requests"] for b in bins) or 1
            right.step(
                [*(b["from"] for b in bins), bins[-1]["below"] if bins else 1],
                [*(100 * b["requests"] / total for b in bins), 0],
                where="post",
                label=name,
            )
        title = f"T = {found[0][1]['temperature']:g}"
        left.set(title=f"Accepted by place, {title}", xlabel="offset", ylabel="% of drafts")
        left.set_ylim(bottom=0)
        labels = [label.replace(" ", "\n", 1) for label in shown]
        middle.set_xticks(range(len(shown)), labels, fontsize=7)
        middle.set_ylim(bottom=1)
        middle.set(title=f"Acceptance length, token-weighted, {title}", ylabel="tokens a step")
        right.set(title=f"Requests by their own length, {title}", xlabel="tokens a step")
        right.set(ylabel="% of requests", ylim=(0, None))
        for axis in row:
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7)
    return figure


def _lossless(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """Answers that are identical, and the margins of those that are not."""
    variants = result["variants"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(2 * WIDTH, HEIGHT))
    names = [v["name"] for v in variants]
    same = [v["identical"] for v in variants]
    left.barh(names, same, label="identical")
    left.barh(names, [len(v["differences"]) for v in variants], left=same, label="different")
    left.set(title="Answers", xlabel="answers")
    left.legend(fontsize=7)
    for place, v in enumerate(variants):
        margins = [d["margin"] for d in v["differences"] if d["margin"] is not None]
        right.plot(margins, [place] * len(margins), "x")
    right.set_yticks(range(len(names)), names)
    right.set_ylim(-0.6, len(names) - 0.4)
    right.axvline(0, lw=0.8, color="grey")
    right.set(title="Logit margin at the first difference", xlabel="plain's token less L-MTP's")
    return figure
