"""The page of `eval lossless`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_lmtp.eval.pages.words import about_heads, number, table, top


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    variants = result["variants"]
    lines = top(result, "Greedy output against plain decoding")
    lines += about_heads(variants)
    rows = [(v["name"], v["answers"], v["tokens"], v["identical"]) for v in variants]
    lines += table(("heads", "answers", "tokens", "identical answers"), rows)
    for v in variants:
        if v["differences"]:
            lines += _differences(v)
    return "\n".join(lines)


def _differences(variant: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            d["number"],
            d["place"],
            d["plain"],
            d["lmtp"],
            number(d["margin"]),
            number(d["best_margin"]),
        )
        for d in variant["differences"]
    ]
    return [
        f"**{variant['name']}**: the first difference of each answer, and the logits there as "
        "transformers computes them (a margin of rounding size is a near tie)",
        "",
        *table(
            ("prompt", "token", "plain", "L-MTP", "plain's logit less L-MTP's", "two best apart"),
            rows,
        ),
    ]
