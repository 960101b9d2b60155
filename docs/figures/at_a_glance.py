"""Draws at_a_glance.png, the README's picture: python docs/figures/at_a_glance.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

RESULTS = Path(__file__).parents[1] / "results"
ALONE, COPIES, NGRAM, SUFFIX = "#f2c28f", "#d97706", "#6b7280", "#7c9cbf"
SHORT = {
    "Multi-turn Conversation": "chat",
    "Translation": "translation",
    "Summarization": "summaries",
    "Question Answering": "questions",
    "Mathematical Reasoning": "maths",
    "Retrieval-aug. Generation": "retrieval",
}


def main() -> None:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    _lengths(left)
    _speeds(right)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=130, metadata={"Software": None})


def _lengths(axes: Any) -> None:
    """Tokens a step on Spec-Bench, greedy, by group."""
    shipped = RESULTS / "smollm2" / "shipped"
    alone = _greedy(shipped / "alone" / "acceptance.json", "smollm2")
    copies = _greedy(shipped / "copying" / "acceptance.json", "smollm2")
    for shift, name, found, colour in (
        (-0.2, "heads", alone, ALONE),
        (0.2, "heads and copies", copies, COPIES),
    ):
        values = [found["by_group"][group]["token_weighted"]["value"] for group in SHORT]
        values.append(found["all"]["token_weighted"]["value"])
        places = [i + shift for i in range(len(values))]
        bars = axes.bar(places, values, 0.38, color=colour, label=name)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=7, padding=1)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(SHORT) + 1), [*SHORT.values(), "all"], fontsize=8)
    axes.set_ylim(0.8, 2.8)
    axes.set_ylabel("tokens a step")
    axes.set_title("SmolLM2-135M, Spec-Bench, T = 0 (plain decoding: 1)", fontsize=9)
    axes.legend(fontsize=8, frameon=False)


def _greedy(file: Path, name: str) -> dict[str, Any]:
    variants = json.loads(file.read_text(encoding="utf-8"))["variants"]
    (found,) = [
        at
        for variant in variants
        for at in variant["temperatures"]
        if variant["name"] == name and at["temperature"] == 0
    ]
    return dict(found)


def _speeds(axes: Any) -> None:
    """Speed over plain decoding by number of streams, median and range of the rounds."""
    file = RESULTS / "draft-length" / "smollm2-int8" / "speed.json"
    cells = json.loads(file.read_text(encoding="utf-8"))["speed"]
    names = {
        "automatic": ("vllm-lmtp, by default", COPIES),
        "ngram": ("ngram, 5 drafts", NGRAM),
        "suffix": ("suffix decoding", SUFFIX),
    }
    for method, (name, colour) in names.items():
        found = [c for c in cells if c["method"] == method]
        middle = [c["speed_up"]["median"] for c in found]
        low = [m - c["speed_up"]["least"] for m, c in zip(middle, found, strict=True)]
        high = [c["speed_up"]["most"] - m for m, c in zip(middle, found, strict=True)]
        streams = [c["streams"] for c in found]
        axes.errorbar(streams, middle, (low, high), color=colour, marker="o", capsize=3, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    ticks = [1, 4, 8, 16, 32, 64]
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_xlabel("requests at once")
    axes.set_ylabel("speed over plain decoding")
    axes.set_title("SmolLM2-135M, two CPU cores", fontsize=9)
    axes.legend(fontsize=8, frameon=False)


if __name__ == "__main__":
    main()
