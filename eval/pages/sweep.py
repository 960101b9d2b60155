"""The page of `scorer sweep`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_lmtp.eval.pages.words import origin, percent, table

AXES = ("size", "weight", "pseudo_counts", "counted", "refreshed", "beam")
NAMES = {
    "size": "K",
    "weight": "weight",
    "pseudo_counts": "pseudo-counts",
    "counted": "tokens counted",
    "refreshed": "refreshed",
    "beam": "search",
}


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    held, text = result["held_out"], result["text"]
    judged = (
        "greedy ones, so that a draft is judged as a greedy target judges it"
        if held["greedy"]
        else "sampled at T = "
        + ", ".join(f"{t:g}" for t in held["temperatures"])
        + ", so that a length is what a target accepts that samples at these temperatures"
    )
    lines = [
        "# Successor tables compared",
        "",
        f"    {result['provenance']['command']}",
        "",
        f"- Heads: {result['heads']}. Counted on: {text['source']}, {text['tokens']:,} tokens.",
        f"- Held out: {held['answers']} answers of {held['source']}, {held['positions']:,} "
        f"positions, {judged}. Every position counts alike; a place counts if all before it were "
        "right.",
        *origin(result),
        "",
        *verdict(result),
        "",
        "Behind: how much shorter than the best table's, answer by answer. ± one standard error, "
        "answers taken as independent.",
        "",
    ]
    rows = result["results"]
    axes = [a for a in AXES if any(a in r for r in rows)]
    columns = ["behind", *(["gain"] if any("gain" in r for r in rows) else [])]
    if len(columns) > 1:
        lines[-2] += (
            " Gain: over the same without search, or with a table that stays as it was counted."
        )
    places = range(1, len(rows[0]["accepted"]) + 1)
    headers = ("scorer", *(NAMES[a] for a in axes), "length", *columns, *map(str, places))
    return "\n".join(lines + table(headers, [_row(r, axes, columns) for r in rows]))


def verdict(result: Mapping[str, Any]) -> list[str]:
    """In words: the best table, and which could be as good."""
    rows = result["results"]
    best, alike = rows[result["best"]], [rows[i] for i in result["alike"]]
    others = sum("size" in r and "beam" not in r and not r["refreshed"] for r in rows) - 1
    lines = [f"Best: {words(best)}: {_length(best)} tokens a step."]
    if not others:
        return lines
    if not alike:
        return [*lines, f"All {others} others are more than two standard errors behind."]
    least = min([best, *alike], key=lambda r: (r["size"], r["behind"]))
    told = f"{len(alike)} of {others} others cannot be told from it (two standard errors)"
    if least is not best:
        told += f", of which the smallest is {words(least)}: {_length(least)}"
    return [*lines, told + "."]


def words(row: Mapping[str, Any]) -> str:
    """A table in words."""
    name = f"K {row['size']}, weight {row['weight']:g}, {row['pseudo_counts']:g} pseudo-counts"
    return name if row["counted"] is None else f"{name}, {row['counted']:,} tokens counted"


def _row(row: Mapping[str, Any], axes: Sequence[str], columns: Sequence[str]) -> list[str]:
    cells = [_cell(row.get(a)) for a in axes]
    differences = [_difference(row.get(c), row.get(f"{c}_se")) for c in columns]
    return [row["scorer"], *cells, _length(row), *differences, *map(percent, row["accepted"])]


def _difference(value: float | None, error: float | None) -> str:
    return "-" if value is None or error is None else f"{value:.3f} ± {error:.3f}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if value != str(value) else value
    )


def _length(row: Mapping[str, Any]) -> str:
    error = row["se"]
    return f"{row['length']:.3f}" + ("" if error is None else f" ± {error:.3f}")
