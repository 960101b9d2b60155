"""Writes a result of the kit as JSON and as a picture, with where it came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_lmtp.eval.provenance import provenance
from vllm_lmtp.formats.whole import whole_file, write_text


def save(kind: str, result: dict[str, Any], words: Sequence[str], folder: Path) -> None:
    """Write `<kind>.json` and, where anything was measured, `<kind>.png`.

    Args:
        words: the command line, the module's name first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = provenance(words, seed=0)
    source["command"] = source["command"].replace("vllm-lmtp ", "python -m vllm_lmtp.", 1)
    whole = {"kind": kind} | result | {"provenance": source}
    text = json.dumps(whole, indent=1)
    write_text(folder / f"{kind}.json", text + "\n")
    if result["runs"]:
        _draw(kind, result["runs"], folder / f"{kind}.png")


def _draw(kind: str, runs: list[dict[str, Any]], file: Path) -> None:
    """One line for each setting over the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    x, y, label = {
        "draft": ("batch", "of_floor", "time of a draft, of the memory floor"),
        "engine": ("batch", "tokens_per_second", "tokens a second"),
    }[kind]
    lines: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        keys = ("model", "method", "dtype", "product", "scorer", "way", "acceptance_length")
        name = " ".join(str(run[key]) for key in keys if run.get(key) not in (None, "none"))
        lines.setdefault(name, []).append((run[x], run[y]))
    figure, axes = pyplot.subplots(figsize=(9, 5))
    try:
        for name, points in lines.items():
            axes.plot(*zip(*sorted(points), strict=True), "-o", markersize=3, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xlabel(x)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
        figure.tight_layout()
        with whole_file(file) as part:
            figure.savefig(part, dpi=100, format="png", metadata={"Software": None})
    finally:
        pyplot.close(figure)
