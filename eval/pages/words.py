"""What all pages share: tables, numbers, and the lines about set, machine and command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table and the empty line after it."""
    cells = [list(map(str, row)) for row in (headers, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|---" * len(headers) + "|", *lines[1:], ""]


def percent(value: float | None) -> str:
    """A share as a percentage with one digit."""
    return "-" if value is None else f"{100 * value:.1f}"


def share(counted: Mapping[str, Any]) -> str:
    """A share in percent and its standard error."""
    if counted["rate"] is None:
        return "-"
    error = counted["se"]
    return percent(counted["rate"]) + ("" if error is None else f" ± {100 * error:.1f}")


def length(found: Mapping[str, Any]) -> str:
    """An acceptance length and its standard error."""
    if found["value"] is None:
        return "-"
    error = found["se"]
    return f"{found['value']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def number(value: float | None) -> str:
    """A length or an attenuation."""
    return "-" if value is None else f"{value:.3f}"


def top(result: Mapping[str, Any], title: str) -> list[str]:
    """Title, command, set, settings and machine."""
    made, prompts, settings = result["provenance"], result["set"], result["settings"]
    count = f"{prompts['asked']} prompts"
    if prompts["rows"] is not None and prompts["found"] != prompts["rows"]:
        count += f" (of {prompts['found']} found, where the whole set has {prompts['rows']})"
    elif prompts["limit"] is not None:
        count += f" (at most {prompts['limit']} of each group, evenly spread)"
    if prompts["too_long"]:
        longest = prompts.get("longest")
        than = "too long for the model" if longest is None else f"of more than {longest} tokens"
        count += f"; {prompts['too_long']} {than} left out"
    return [
        f"# {title}",
        "",
        f"    {made['command']}",
        "",
        f"- Set: {prompts['name']} ({prompts['version']}), {count}; first turns only; "
        f"{prompts['style']}. SHA-256 of the prompts: `{prompts['sha256_of_prompts'][:16]}`.",
        f"- Target: {settings['model']}, {settings['dtype']}; at most {settings['max_tokens']} "
        f"tokens an answer, {settings['batch']} requests at a time, seed {made['seed']}.",
        *origin(result),
        "",
    ]


def origin(result: Mapping[str, Any]) -> list[str]:
    """The lines about date, versions and machine."""
    made = result["provenance"]
    versions = ", ".join(f"{name} {value}" for name, value in made["versions"].items())
    machine = made["machine"]
    threads = f"{machine['threads']} threads, " if "threads" in machine else ""
    return [
        f"- {made['date']}; commit {made['commit'] or 'unknown'}; {versions}.",
        f"- Machine: {machine.get('gpu') or machine['cpu']}, {machine['usable_cores']} of "
        f"{machine['cores']} cores, {threads}{machine['memory_gib']} GiB.",
    ]


def about_heads(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of the heads that were measured."""
    rows = []
    for v in variants:
        vocabulary = v["draft_vocabulary"]
        size = f"all {v['vocabulary']:,}" if vocabulary is None else f"{vocabulary:,}"
        options = ", ".join(f"{key} {value}" for key, value in v["options"].items())
        rows.append((v["name"], v["n_heads"], v["stride"], size, v["scorer"], options or "-"))
    return table(("heads", "number", "stride", "vocabulary", "scorer", "options"), rows)


def mixed(plan: Mapping[str, Any]) -> str:
    """A sentence where answers have many lengths, and nothing else."""
    if not plan.get("mixed"):
        return ""
    return "Answers have from a third of their most tokens to all of them. "
