"""The page of `eval speed`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vllm_lmtp.eval.pages.words import mixed, number, percent, table, top

PROCESSES = "Engine core and worker have processes of their own, as where vLLM serves. "


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    plan = result["plan"]
    lines = top(result, "Speed")
    lines += [
        f"{plan['rounds']} round(s), methods taking turns; {plan['per_stream']} request(s) for "
        f"each stream, at least {plan['least']}; {plan['threads']} thread(s); "
        f"{'eager' if plan['eager'] else 'compiled'}; greedy; prefixes are not cached. "
        f"{mixed(plan)}"
        f"{PROCESSES if plan.get('processes') else ''}Engines "
        "are started and warmed up outside the clock. Medians of the rounds, and in brackets the "
        "least and the most.",
        "",
    ]
    lines += [*methods_table(result), *not_measured(result)]
    lines += ["## Speed-up over plain decoding", "", *speed_ups(result)]
    for streams in plan["streams"]:
        for context in contexts_of(result):
            lines += _load(result, streams, context)
    return "\n".join(lines)


def methods_table(result: Mapping[str, Any]) -> list[str]:
    """Every method and its configuration."""
    configs = [
        (m["name"], "-" if m["speculative_config"] is None else _code(m["speculative_config"]))
        for m in result["methods"]
    ]
    return table(("method", "speculative config"), configs)


def not_measured(result: Mapping[str, Any]) -> list[str]:
    """What was left out, and why."""
    found = result["not_measured"]
    lines = [f"- {m['name']}: {m['why']}" for m in found]
    return ["Not measured:", "", *lines, ""] if found else []


def contexts_of(result: Mapping[str, Any]) -> list[int | None]:
    """Tokens of the prompts, None where they are as the set has them."""
    return list(result["plan"].get("contexts", [None]))


def loads_of(
    result: Mapping[str, Any], context: int | None, **wanted: Any
) -> list[Mapping[str, Any]]:
    """The loads of a context, and of a method or a number of streams."""
    return [
        s
        for s in result["speed"]
        if s.get("context") == context and all(s[key] == value for key, value in wanted.items())
    ]


def speed_ups(result: Mapping[str, Any]) -> list[str]:
    """A table of all methods over all loads, one for each context."""
    loads = result["plan"]["streams"]
    lines = []
    for context in contexts_of(result):
        rows = []
        for method in result["methods"]:
            of_method = loads_of(result, context, method=method["name"])
            found = {s["streams"]: s for s in of_method}
            if found[loads[0]]["speed_up"]:
                rows.append((method["name"], *(spread(found[n]["speed_up"], 2) for n in loads)))
        if context is not None:
            lines += [f"Prompts of {context} tokens:", ""]
        lines += table(("method", *(f"{n} stream(s)" for n in loads)), rows)
    return lines


def _load(result: Mapping[str, Any], streams: int, context: int | None) -> list[str]:
    found = loads_of(result, context, streams=streams)
    rows = [
        (
            s["method"],
            spread(s["tokens_per_second"], 1),
            spread(s["speed_up"], 2),
            number(s["acceptance_length"]),
            number(s["efficiency"]),
            number(s["step_ms"]),
            number(s["draft_ms"]),
            number(s["rest_ms"]),
            _identical(s["answers"]),
        )
        for s in found
    ]
    headers = (
        "method",
        "tokens/s",
        "speed-up",
        "acceptance length",
        "speed-up / length",
        "ms a step",
        "draft ms",
        "rest ms",
        "answers as plain's",
    )
    of = "" if context is None else f" of {context} tokens"
    title = f"## {streams} stream(s), {found[0]['requests']} requests{of} a round"
    return [title, "", *table(headers, rows), *_rates(found)]


def _rates(found: list[Mapping[str, Any]]) -> list[str]:
    drafted = [s for s in found if s["draft_tokens"]]
    if not drafted:
        return []
    shares = [f"{s['method']} {percent(s['accepted_tokens'] / s['draft_tokens'])}" for s in drafted]
    return [f"Draft tokens accepted, percent: {'; '.join(shares)}.", ""]


def spread(value: Mapping[str, Any] | None, digits: int) -> str:
    """A median, and the least and the most where there was more than one round."""
    if value is None:
        return "-"
    median, least, most = (f"{value[key]:.{digits}f}" for key in ("median", "least", "most"))
    return median if len(value["rounds"]) == 1 else f"{median} ({least}-{most})"


def _identical(answers: Mapping[str, Any] | None) -> str:
    if answers is None:
        return "-"
    text = f"{answers['identical']} of {answers['answers']}"
    places = answers["first_differences"]
    return text + (f"; first difference at token {places[0]}" if places else "")


def _code(config: Mapping[str, Any]) -> str:
    return f"`{json.dumps(config)}`"
