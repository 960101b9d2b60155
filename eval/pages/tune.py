"""The page of `tune`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vllm_lmtp.eval.pages.speed import speed_ups, spread
from vllm_lmtp.eval.pages.words import about_heads, mixed, number, table, top


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    plan = result["plan"]
    lines = top(result, "Draft lengths by batch size")
    lines += about_heads([result["heads"]])
    lines += [
        f"{plan['rounds']} rounds, lengths taking turns in one engine; {plan['threads']} "
        f"thread(s); {'eager' if plan['eager'] else 'compiled'}; greedy. {mixed(plan)}"
        "Speed over the faster, in the same round, of plain decoding and of the same engine "
        "drafting nothing: median, and in brackets the least and the most of the rounds. "
        "A length is chosen where, by Student's t, the rounds' mean is nineteen times in twenty at "
        f"least {1 + result['least_gain']:.2f}. Given up: far below the baseline in the first "
        "round. -: not measured, as nothing came near the baseline in a smaller batch's. Where all "
        "lengths were given up, there was one round.",
        "",
    ]
    cuts = result.get("cuts", [0.0])
    for cut in cuts:
        if len(cuts) > 1:
            title = f"Drafts cut at {cut:g}" if cut else "Whole drafts"
            lines += [f"## {title}", ""]
        lines += _speeds(result, cut)
    lines += ["The speculative config that this gives:", ""]
    config = result["speculative_config"]
    if config is None:
        lines += ["none: no draft length pays at any of these loads. Serve the target plainly.", ""]
    else:
        lines += ["```json", json.dumps(config), "```", ""]
    if (verified := result.get("verification")) is not None:
        lines += ["## Against plain decoding", ""]
        lines += speed_ups(verified)
    return "\n".join(lines)


def _speeds(result: Mapping[str, Any], cut: float) -> list[str]:
    """Speeds by batch size and length with one cut, and what was chosen if it is the best one."""
    chosen = {entry["streams"]: entry["length"] for entry in result["chosen"]}
    plain = {load["streams"]: load for load in result["plain"]}
    by_place = {
        (load["streams"], load["length"]): load
        for load in result["loads"]
        if load.get("cut", 0.0) == cut or not load["length"]
    }
    best = cut == result.get("cut", 0.0)
    rows = []
    for streams, length in chosen.items():
        found = [by_place.get((streams, n)) for n in result["lengths"]]
        cells = [spread(plain[streams]["tokens_per_second"], 1), *map(_speed_up, found)]
        accepted = [load["acceptance_length"] for load in found[1:] if load]
        longest = number(max((a for a in accepted if a), default=None))
        rows.append((streams, *cells, longest, length if best else "-"))
    headers = ("streams", "plain, tokens/s", *(f"{n}" for n in result["lengths"]))
    return table((*headers, "longest acceptance length", "chosen"), rows)


def _speed_up(load: Mapping[str, Any] | None) -> str:
    if load is None:
        return "-"
    shown = spread(load["speed_up"], 2)
    return f"{shown}, given up" if load.get("given_up") else shown
