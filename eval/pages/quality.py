"""The page of `eval quality`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vllm_lmtp.eval.pages.words import origin, table


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    asked = "all documents" if result["limit"] is None else f"{result['limit']} documents of each"
    chat = "in the chat template" if result["chat"] else "as raw text"
    settings = result["settings"]
    lines = [
        "# Scores with and without speculation",
        "",
        f"    {result['provenance']['command']}",
        "",
        f"- lm-evaluation-harness: {', '.join(result['tasks'])}; {asked}, {chat}.",
        f"- Target: {settings['model']}, {settings['dtype']}.",
        *origin(result),
        "",
    ]
    configs = {m["name"]: m["speculative_config"] for m in result["methods"]}
    names = list(dict.fromkeys(name for s in result["scores"] for name in s["scores"]))
    rows = [(name, *(_score(s["scores"].get(name)) for s in result["scores"])) for name in names]
    lines += table(("score", *(s["method"] for s in result["scores"])), rows)
    count = len(result["differences"])
    lines += [
        "Every score is the same." if not count else f"**{count} score(s) differ from plain's.**",
        "",
        *(f"- {name}: `{json.dumps(config)}`" for name, config in configs.items() if config),
        "",
    ]
    return "\n".join(lines)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
