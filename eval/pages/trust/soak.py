"""The page of `eval soak`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_lmtp.eval.pages.words import number, origin, table


def page(result: Mapping[str, Any]) -> str:
    """Markdown of the whole result."""
    made, settings, load = result["provenance"], result["settings"], result["load"]
    under, servers = result["conditions"], result["servers"]
    adapters = ", ".join(load["adapters"])
    lines = [
        "# Under load, every answer checked",
        "",
        f"    {made['command']}",
        "",
        f"- Target: {settings['model']}, {settings['dtype']}; seed {made['seed']}"
        + (f"; requests take turns with the adapters {adapters}" if adapters else "")
        + ".",
        f"- {load['requests']} requests to each server in {load['seconds'] / 60:.1f} min, the same "
        f"at the same times: Poisson's arrivals at {load['rate']:.2f} a second, bursts, and times "
        f"without any; {load['broken_off']} are broken off by the client. Plain decoding alone "
        f"bears {load['bears']:.0f} tokens/s.",
        f"- {load['known']} different requests, whose answers plain decoding gave before the load.",
        f"- At most {under['slots']} requests at once, {under['chunk']} tokens a step, a context "
        f"of {under['context']}, a cache of {under['cache_tokens']} tokens; prefixes are cached; "
        f"{'eager' if under['eager'] else 'compiled'}; {settings['threads']} thread(s) a server.",
        *origin(result),
        "",
        *_answers(servers),
        *_times(servers),
        *_memory(servers),
    ]
    for server in servers:
        lines += _faults(server)
    return "\n".join(lines)


def _answers(servers: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            s["name"],
            s["answers"],
            s["tokens"],
            s["broken_off"],
            s["lost"],
            s["wrong"],
            s["mixed"],
            s["near_ties"],
            len(s["broken"]),
            s["preemptions"],
            number(s["acceptance_length"]),
        )
        for s in servers
    ]
    names = ("server", "answers", "tokens", "broken off", "lost", "wrong", "of them another's")
    more = ("near ties", "disagreements of counters", "preemptions", "acceptance length")
    return table((*names, *more), rows)


def _times(servers: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            s["name"],
            *(
                _ms(s["times"][what][p])
                for what in ("first_token", "token", "answer")
                for p in ("p50", "p90", "p99")
            ),
        )
        for s in servers
    ]
    names = ("first token, ms: median", "p90", "p99", "then a token, ms: median", "p90", "p99")
    return table(("server", *names, "answer, ms: median", "p90", "p99"), rows)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _memory(servers: list[dict[str, Any]]) -> list[str]:
    rows = []
    for s in servers:
        memory = s["memory"]
        for process in [*memory["processes"], memory["total"] | {"process": "all"}]:
            cells: list[object] = [s["name"], process["process"]]
            for kind in ("resident", "own"):
                found = process[kind]
                cells += [f"{found['first']:.0f}", f"{found['last']:.0f}", _slope(found)]
            rows.append(cells)
    resident = ("resident MiB at first", "at last", "then an hour")
    own = ("own MiB at first", "at last", "then an hour")
    lines = table(("server", "process", *resident, *own), rows)
    lines += [
        "Growth in MiB an hour after the first quarter of the time. *Own*: without pages of files "
        "and shared ones, which come and go with what else runs on the machine.",
        "",
    ]
    for s in servers:
        for kind, over in s["memory"].get("over_plain", {}).items():
            lines += [
                f"- {s['name']} over plain decoding, {kind}: {_slope(over)} MiB an hour, "
                f"{TOLD[over['told_apart']]} (two standard errors)."
            ]
    return [*lines, ""]


TOLD = {True: "more", False: "not told apart", None: "too short to tell"}


def _slope(found: Mapping[str, Any]) -> str:
    if found["per_hour"] is None:
        return "-"
    return f"{found['per_hour']:.1f} ± {found['se']:.1f}"


def _faults(server: Mapping[str, Any]) -> list[str]:
    lines = [f"- lost: {why} ({times})" for why, times in server["why_lost"].items()]
    lines += [f"- counters: {fault}" for fault in server["broken"][:20]]
    lines += [f"- log: {line}" for line in server["log"]]
    for w in server["wrong_answers"]:
        apart = "-" if w["best_margin"] is None else f"{w['best_margin']:.1e}"
        lines.append(
            f"- wrong: request {w['request']} ({w['kind']}, {w['prompt']} tokens) of model "
            f"{w['model']} from token {w['place']} on, the two best logits {apart} apart"
            + (", the answer of another" if w["mixed"] else "")
        )
    return [f"**{server['name']}**", "", *lines, ""] if lines else []
