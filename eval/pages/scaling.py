"""The page of `eval scaling`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_lmtp.eval.pages.words import origin, percent, table


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    points, doubling = result["points"], result["doubling"]
    offsets = list(doubling)
    lines = [
        "# Accuracy against training text",
        "",
        f"    {result['provenance']['command']}",
        "",
        *origin(result),
        "",
        "Held-out top-1 / top-10 in percent, by offset.",
        "",
    ]
    headers = ("run", "tokens", "epochs", "held-out tokens", *(f"offset {o}" for o in offsets))
    lines += table(headers, [_row(point, offsets) for point in points])
    gains = [(top, *(_gain(doubling[o][top]) for o in offsets)) for top in ("top1", "top10")]
    lines += [
        "What a doubling of the text gained, in points (the slope of a line over log2 of tokens):",
        "",
        *table(("", *(f"offset {o}" for o in offsets)), gains),
        *(f"- {point['name']}: `{point['command']}`" for point in points),
        "",
    ]
    return "\n".join(lines)


def _row(point: Mapping[str, Any], offsets: list[str]) -> tuple[object, ...]:
    rates = [point["offsets"].get(offset, {}) for offset in offsets]
    cells = [f"{percent(r.get('top1'))} / {percent(r.get('top10'))}" for r in rates]
    epochs = f"{point['epochs']:g}"
    return (point["name"], f"{point['tokens']:,}", epochs, f"{point['held_out']:,}", *cells)


def _gain(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"
