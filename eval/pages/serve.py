"""The page of `eval serve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_lmtp.eval.pages.speed import methods_table, not_measured, spread
from vllm_lmtp.eval.pages.words import number, table, top


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    plan = result["arrivals"]
    lines = top(result, "Under open-loop load")
    lines += [
        f"{plan['rounds']} round(s) of {plan['requests']} requests over HTTP (`vllm bench serve`), "
        f"which arrive as Poisson has it; at most {plan['slots']} run at once; servers take turns "
        f"with the same arrivals; {plan['threads']} thread(s); "
        f"{'eager' if plan['eager'] else 'compiled'}; greedy; prefixes are not cached. Medians of "
        "the rounds, and in brackets the least and the most. *Sooner*: plain decoding's median "
        "time of an answer over the method's, in the same round.",
        "",
        *methods_table(result),
        *not_measured(result),
    ]
    for rate in plan["rates"]:
        lines += _rate(result, rate)
    return "\n".join(lines)


def _rate(result: Mapping[str, Any], rate: float | None) -> list[str]:
    rows = [
        (
            s["method"],
            spread(s["sooner"], 2),
            spread(s["answer_ms"], 0),
            spread(s["answer_p99_ms"], 0),
            spread(s["first_token_ms"], 0),
            spread(s["first_token_p99_ms"], 0),
            spread(s["token_ms"], 1),
            spread(s["tokens_per_second"], 1),
            number(s["acceptance_length"]),
        )
        for s in result["served"]
        if s["rate"] == rate
    ]
    headers = (
        "method",
        "sooner",
        "answer, ms",
        "p99",
        "first token, ms",
        "p99",
        "then a token, ms",
        "tokens/s",
        "acceptance length",
    )
    title = "All at once" if rate is None else f"{rate:g} requests/s"
    return [f"## {title}", "", *table(headers, rows)]
