"""The page of `eval acceptance`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_lmtp.eval.pages.words import about_heads, length, percent, table, top

PARTS = (("all", "by_group", "All answers"),)
STRAIGHT = ("without_loops", "by_group_without_loops", "Without looping answers")


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    variants = result["variants"]
    lines = top(result, "Acceptance")
    lines += about_heads(variants)
    lines += [
        "Acceptance length: tokens of a step, the target's own included. *Token-weighted*: 1 + "
        "accepted tokens / drafts over all requests, as vLLM and Spec-Bench count. "
        "*Request-weighted*: the mean of the requests' own lengths. ± one standard error with "
        "requests taken as independent.",
        "",
    ]
    for number, at in enumerate(variants[0]["temperatures"]):
        found = [(v["name"], v["temperatures"][number]) for v in variants]
        lines += [f"## T = {at['temperature']:g}", ""]
        lines += _loops(found)
        for part, groups, title in (*PARTS, STRAIGHT):
            if part == STRAIGHT[0] and not any(f["loops"]["answers"] for _, f in found):
                continue
            lines += [f"### {title}", ""]
            lines += _lengths(found, part) + _groups(found, groups, part)
            lines += _places(found, part)
        lines += _sources(found)
    return "\n".join(lines)


def _loops(found: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    rows = [
        (
            name,
            f["loops"]["of"],
            f["loops"]["tokens"],
            f["loops"]["answers"],
            percent(f["loops"]["tokens_in_loops"] / max(1, f["loops"]["tokens"])),
        )
        for name, f in found
    ]
    return table(("heads", "answers", "tokens", "looping answers", "% of tokens in loops"), rows)


def _lengths(found: Sequence[tuple[str, Mapping[str, Any]]], part: str) -> list[str]:
    rows = []
    for name, f in found:
        s = f[part]
        rows.append(
            (
                name,
                length(s["token_weighted"]),
                length(s["request_weighted"]),
                percent(s["acceptance_rate"]),
                s["drafts"],
                *(percent(n / s["drafts"] if s["drafts"] else None) for n in s["histogram"]),
            )
        )
    width = max(len(row) for row in rows)
    rows = [(*row, *["-"] * (width - len(row))) for row in rows]
    accepted = [f"{n} accepted" for n in range(width - 5)]
    headers = ("heads", "token-weighted", "request-weighted", "rate", "drafts", *accepted)
    return [
        "Rates in percent; the last columns are shares of the drafts.",
        "",
        *table(headers, rows),
    ]


def _groups(found: Sequence[tuple[str, Mapping[str, Any]]], key: str, part: str) -> list[str]:
    groups = list(dict.fromkeys(group for _, f in found for group in f[key]))
    if len(groups) < 2:
        return []
    nothing = {"value": None, "se": None}
    lines = []
    for weight in ("token_weighted", "request_weighted"):
        rows = [
            (
                name,
                *(length(f[key].get(g, {weight: nothing})[weight]) for g in groups),
                length(f[part][weight]),
            )
            for name, f in found
        ]
        title = weight.replace("_", "-").capitalize()
        lines += [
            f"{title} acceptance length by group:",
            "",
            *table(("heads", *groups, "Overall"), rows),
        ]
    return lines


def _sources(found: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Nothing for results of a time when drafts did not copy."""
    rows = [
        (name, s["source"], s["drafted"], s["accepted"], percent(s["rate"]))
        for name, f in found
        for s in f.get("counters", {}).get("by_source", ())
    ]
    if not rows:
        return []
    return [
        "By source: *copy* where the request's own text decided a token, *head* else.",
        "",
        *table(("heads", "source", "drafted", "accepted", "%"), rows),
    ]


def _places(found: Sequence[tuple[str, Mapping[str, Any]]], part: str) -> list[str]:
    lines: list[str] = []
    for name, f in found:
        s = f[part]
        rows = [
            (
                p["place"],
                p["offset"],
                p["head"],
                p["lag"],
                p["drafted"],
                p["accepted"],
                percent(p["rate"]),
                *([percent(s["conditional"][p["place"]])] if "conditional" in s else []),
            )
            for p in s["by_position"]
        ]
        headers = ["place", "offset", "head", "lag", "drafted", "accepted", "%"]
        if "conditional" in s:  # not so in results of an earlier time
            headers.append("% after the place before")
        lines += [f"**{name}** by place:", "", *table(headers, rows)]
        sums = [
            f"{label} {g[label]}: {percent(g['rate'])} %"
            for label in ("head", "lag")
            for g in s[f"by_{label}"]
        ]
        lines += [f"{name}, accepted of drafted: {', '.join(sums)}.", ""]
    return lines
