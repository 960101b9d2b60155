"""The picture of `scorer sweep`. The caller has chosen matplotlib's backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_lmtp.eval.pages.sweep import NAMES

ACROSS = ("counted", "weight", "size", "pseudo_counts")
PANELS = ("pseudo_counts", "weight", "size")
KINDS = {"none": "heads alone", "own": "their own scorer", "table": "table"}
HEIGHT, WIDTH = 3.4, 3.6


def draw_sweep(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """Acceptance length over the first thing that varies, a panel for each pseudo-count, a line for
    each of the rest; the band is one standard error of the best table's length. Where no number
    varies, bars."""
    rows = [r for r in result["results"] if "size" in r]
    plain = [r for r in result["results"] if "size" not in r]
    varied = [a for a in (*ACROSS, "refreshed", "beam") if len({r.get(a) for r in rows}) > 1]
    across = next((a for a in ACROSS if a in varied), None)
    if across is None:
        return _bars(pyplot, result["results"])
    panel = next((a for a in PANELS if a in varied and a != across), None)
    values = [None] if panel is None else sorted({r[panel] for r in rows})
    figure, axes = pyplot.subplots(
        1,
        len(values),
        figsize=(max(WIDTH * len(values), 1.5 * WIDTH), HEIGHT),
        sharey=True,
        squeeze=False,
    )
    best = result["results"][result["best"]]
    for axis, value in zip(axes[0], values, strict=True):
        shown = [r for r in rows if panel is None or r[panel] == value]
        lines: dict[str, list[Mapping[str, Any]]] = {}
        for row in shown:
            lines.setdefault(_label(row, varied, across, panel), []).append(row)
        for label, line in lines.items():
            ordered = sorted(line, key=lambda r: r[across] or result["text"]["tokens"])
            xs = [r[across] or result["text"]["tokens"] for r in ordered]
            axis.plot(xs, [r["length"] for r in ordered], "o-", ms=3, lw=1.2, label=label)
        for row, style in zip(plain, (":", "--", "-.", (0, (5, 1)), (0, (1, 4))), strict=False):
            name = KINDS[row["scorer"]]
            name += f", {row['beam']}" if "beam" in row else ""
            axis.axhline(row["length"], color="grey", lw=1, ls=style, label=name)
        if best["se"] is not None:
            low, high = (best["length"] + sign * best["se"] for sign in (-1, 1))
            axis.axhspan(low, high, color="grey", alpha=0.15, lw=0)
        if across != "weight":
            axis.set_xscale("log")
        axis.set(xlabel=NAMES[across])
        if panel is not None:
            axis.set_title(f"{NAMES[panel]} {value:g}", fontsize=9)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("tokens a step")
    axes[0][-1].legend(fontsize=6)
    return figure


def _bars(pyplot: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    figure, axis = pyplot.subplots(figsize=(1.7 * WIDTH, 0.8 + 0.25 * len(rows)))
    names = []
    for row in rows:
        search = f", search {row['beam']}" if "beam" in row else ""
        names.append(KINDS[row["scorer"]] + ", refreshed" * row.get("refreshed", False) + search)
    axis.barh(names, [r["length"] for r in rows], xerr=[r["se"] or 0.0 for r in rows], height=0.6)
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=7)
    axis.set(xlabel="tokens a step", xlim=(1, None))
    axis.grid(alpha=0.3)
    return figure


def _label(row: Mapping[str, Any], varied: list[str], across: str, panel: str | None) -> str:
    parts = []
    for name in varied:
        if name in (across, panel):
            continue
        value = row.get(name)
        if name == "refreshed":
            parts.append("refreshed" if value else "frozen")
        elif name == "beam":
            parts.append("best token" if value is None else f"search {value}")
        else:
            parts.append(f"{NAMES[name]} {value:g}")
    return ", ".join(parts) or "table"
