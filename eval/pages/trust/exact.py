"""The page of `eval exact`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_lmtp.eval.pages.words import number, origin, percent, table


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    made, settings, plan = result["provenance"], result["settings"], result["plan"]
    under, asked, texts = result["conditions"], result["requests"], result["texts"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in asked["kinds"].items())
    lines = [
        "# Greedy answers against plain decoding, token for token",
        "",
        f"    {made['command']}",
        "",
        f"- Target: {settings['model']}, {settings['dtype']}; seed {plan['seed']}.",
        f"- Requests by kind of prompt: {kinds}; {asked['chunked']} longer than a step takes; "
        f"answers of 1 to {plan['max_tokens']} tokens. Prompts are cut from {texts['tokens']} "
        f"tokens that the target wrote (SHA-256 `{texts['sha256'][:16]}`).",
        f"- At most {under['slots']} requests at once, {under['chunk']} tokens a step, a context "
        f"of {under['context']}, a cache of {under['cache_tokens']} tokens; prefixes are cached; "
        f"{'eager' if under['eager'] else 'compiled'}.",
        *origin(result),
        "",
        *table(
            ("", "runner", "requests", "tokens", "tokens/s", "preemptions", "tokens from prefixes"),
            [_run("plain", result["plain"]), *(_run(v["name"], v) for v in result["variants"])],
        ),
    ]
    for variant in result["variants"]:
        lines += _variant(variant)
    return "\n".join(lines)


def _run(name: str, found: Mapping[str, Any]) -> tuple[object, ...]:
    runner = f"V{found['runner']}" + (", asynchronous" if found["asynchronous"] else "")
    speed = found["tokens_per_second"]
    counts = (found["requests"], found["tokens"], "-" if speed is None else f"{speed:.0f}")
    return (name, runner, *counts, found["preemptions"], found["prefix_hits"])


def _variant(v: Mapping[str, Any]) -> list[str]:
    lines = [
        f"## {v['name']}",
        "",
        f"**{v['different']} of {v['requests']} answers differ** from plain decoding's "
        f"({v['compared']} tokens). {v['drafts']} drafts, {v['cold_drafts']} of them cold. "
        f"{len(v['broken'])} disagreements of the counters.",
        "",
    ]
    if v["not_seen"]:
        lines += [f"**Never happened, and so not shown: {', '.join(v['not_seen'])}.**", ""]
    lines += [f"- {fault}" for fault in v["broken"]] + ([""] if v["broken"] else [])
    if v["differences"]:
        rows = [
            (
                f"{d['block']}/{d['request']}",
                d["kind"],
                d["prompt"],
                d["place"],
                d["plain"],
                d["lmtp"],
                number(d["margin"]),
                "-" if d["best_margin"] is None else f"{d['best_margin']:.1e}",
            )
            for d in v["differences"]
        ]
        names = ("request", "kind", "prompt", "token", "plain", "L-MTP", "logits apart")
        lines += ["First differences, with the logits that transformers computes there:", ""]
        lines += table((*names, "two best apart"), rows)
    lines += table(
        ("place", "head", "lag", "drafted", "accepted", "refused", "% accepted"),
        [
            (place + 1, row["head"], row["lag"], *_sums(row))
            for place, row in enumerate(v["by_place"])
        ],
    )
    lines += table(
        ("source", "drafted", "accepted", "refused", "% accepted"),
        [(row["source"], *_sums(row)) for row in v["by_source"]],
    )
    if v["steps_by_length"]:
        steps = v["steps_by_length"]
        lines += table(
            ("drafts wanted of a step (below 0: copies alone)", *steps),
            [("steps", *steps.values())],
        )
    return lines


def _sums(row: Mapping[str, Any]) -> tuple[object, ...]:
    rate = row["accepted"] / row["drafted"] if row["drafted"] else None
    return (row["drafted"], row["accepted"], row["refused"], percent(rate))
