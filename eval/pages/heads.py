"""The page of `eval heads`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_lmtp.eval.pages.words import about_heads, length, number, percent, share, table, top

TOPS = ("top1", "top5", "top10", "top20")
NAMES = ("top-1", "top-5", "top-10", "top-20")


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    lines = top(result, "Head accuracy")
    lines += about_heads(result["temperatures"][0]["heads"])
    lines += [
        "Percent of the positions that have a token that far ahead, in answers that the target "
        "wrote itself; ± one standard error with answers, not tokens, taken as independent. "
        "A scorer plays no part here.",
        "",
    ]
    for part in result["temperatures"]:
        lines += _temperature(part)
    return "\n".join(lines)


def _temperature(part: Mapping[str, Any]) -> list[str]:
    lines = [
        f"## T = {part['temperature']:g}",
        "",
        f"{part['answers']} answers, {part['tokens']:,} tokens; {part['looping_answers']} answers "
        f"loop. The LM head's own best token is the one written in "
        f"{share(part['lm_head']['top1'])} % of them, one of its ten best in "
        f"{share(part['lm_head']['top10'])} %.",
        "",
    ]
    for name, title in (("all", "All answers"), ("without_loops", "Without looping answers")):
        if name == "without_loops" and part["looping_answers"] in (0, part["answers"]):
            continue
        lines += [f"### {title}", ""]
        for heads in part["heads"]:
            lines += _heads(heads["name"], heads[name])
        lines += ["Lengths of a step, the target's own token included:", ""]
        lines += _lengths(part["heads"], name)
    return lines


def _heads(name: str, found: Mapping[str, Any]) -> list[str]:
    own = [
        (e["head"], e["offset"], *(share(e[t]) for t in TOPS), e["top1"]["tries"])
        for e in found["own_offset"]
    ]
    places = [
        (e["place"], e["offset"], e["head"], e["lag"], *(share(e[t]) for t in TOPS))
        for e in found["by_place"]
    ]
    offsets = sorted({e["offset"] for e in found["by_offset"]})
    rates = {(e["head"], e["offset"]): e["top1"]["rate"] for e in found["by_offset"]}
    matrix = [
        (head, *(percent(rates[head, offset]) for offset in offsets))
        for head in sorted({e["head"] for e in found["by_offset"]})
    ]
    return [
        f"**{name}**: each head at its own offset",
        "",
        *table(("head", "offset", *NAMES, "positions"), own),
        f"{name}: each row of a draft, whatever became of the places before it",
        "",
        *table(("place", "offset", "head", "lag", *NAMES), places),
        f"{name}: top-1 at every offset",
        "",
        *table(("head", *(f"t+{offset}" for offset in offsets)), matrix),
        f"{name}: the heads can name {share(found['coverage'])} % of the answers' tokens"
        + _coverage(found["coverage"]["by_group"]),
        "",
    ]


def _tree(found: Mapping[str, Any], size: int) -> str:
    """The length with the best `size` nodes, or with all where there are fewer worth anything."""
    lengths = found["tree"]["lengths"][:size]
    return number(lengths[-1] if lengths else None)


def _coverage(groups: Mapping[str, Any]) -> str:
    if len(groups) < 2:
        return "."
    return ": " + ", ".join(f"{group} {percent(c['rate'])}" for group, c in groups.items()) + "."


def _lengths(heads: list[Mapping[str, Any]], part: str) -> list[str]:
    def row(title: str, cells: list[str]) -> tuple[str, ...]:
        return (title, *cells)

    found = [h[part] for h in heads]

    def theory(key: str) -> list[str]:
        return [number(f["lengths"].get(key)) for f in found]

    rows = [
        row("attenuation g of f(i) = exp(-g(i - 1))", theory("attenuation")),
        row("g below which leaping beats as many adjacent heads", theory("break_even")),
        row("the paper's length, from g", theory("paper")),
        row("the paper's, as many adjacent heads", theory("paper_adjacent_same_heads")),
        row("the paper's, adjacent heads as far", theory("paper_adjacent_same_horizon")),
        row("if places were independent", theory("independent_places")),
        row(
            "measured: each place its best token",
            [length(f["chains"]["top1"]["length"]) for f in found],
        ),
        *(
            row(
                f"bound: each place the right one of its {n} best",
                [length(f["chains"][f"top{n}"]["length"]) for f in found],
            )
            for n in (5, 10, 20)
        ),
        *(
            row(
                f"best static tree of {n} guesses, places independent", [_tree(f, n) for f in found]
            )
            for n in (6, 16, 63)
        ),
    ]
    return table(("", *(h["name"] for h in heads)), rows)
