"""Pictures of speeds. The caller has chosen matplotlib's backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from vllm_lmtp.eval.pages.speed import contexts_of, loads_of

SIZE = (17.0, 4.2)
STYLES = ("-o", "--s", ":^", "-.d")


def draw_speed(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """Tokens a second and speed-up over the load, medians with the spread of the rounds, and where
    a step's time goes at the lowest and the highest load with the longest prompts."""
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=SIZE)
    names = [m["name"] for m in result["methods"]]
    loads = result["plan"]["streams"]
    contexts = contexts_of(result)
    for number, name in enumerate(names):
        for style, context in zip(cycle(STYLES), contexts, strict=False):
            found = loads_of(result, context, method=name)
            label = name if context is None else f"{name}, prompts of {context}"
            line = {"colour": f"C{number}", "name": label, "style": style}
            _line(left, found, "tokens_per_second", **line)
            _line(middle, [f for f in found if f["speed_up"]], "speed_up", **line)
    middle.axhline(1, lw=1, color="grey")
    left.set(title="Speed", ylabel="tokens/s")
    middle.set(title="Speed-up over plain decoding, same round", ylabel="times")
    for axis in (left, middle):
        axis.set_xscale("log", base=2)
        axis.set_xticks(loads, [str(load) for load in loads])
        axis.set(xlabel="streams", ylim=(0, None))
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    ends = list(dict.fromkeys((loads[0], loads[-1])))
    rows = [s for load in ends for s in loads_of(result, contexts[-1], streams=load)]
    labels = [f"{s['method']}, {s['streams']}" for s in rows]
    # A step's share, which is less than a pass takes where not every step drafts.
    whole = [s["step_ms"] or 0.0 for s in rows]
    rest = [w if s["rest_ms"] is None else s["rest_ms"] for s, w in zip(rows, whole, strict=True)]
    drafting = [w - r for w, r in zip(whole, rest, strict=True)]
    right.barh(labels, drafting, label="drafting")
    right.barh(labels, rest, left=drafting, label="the rest")
    right.tick_params(axis="y", labelsize=7)
    right.invert_yaxis()
    right.set(title="A step, by method and streams", xlabel="ms")
    right.legend(fontsize=7)
    return figure


def draw_tune(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """Speed over the baseline by draft length, a line for each load; the chosen ones ringed."""
    figure, axis = pyplot.subplots(figsize=(SIZE[0] / 2, SIZE[1]))
    chosen = {entry["streams"]: entry["length"] for entry in result["chosen"]}
    for number, (streams, length) in enumerate(chosen.items()):
        found = [
            s
            for s in result["loads"]
            if s["streams"] == streams
            and s["speed_up"]
            and (s.get("cut", 0.0) == result.get("cut", 0.0) or not s["length"])
        ]
        _line(axis, found, "speed_up", f"C{number}", f"{streams} stream(s)", "length")
        best = next((f["speed_up"]["median"] for f in found if f["length"] == length), 1.0)
        axis.plot([length], [best], "o", ms=11, mfc="none", mec=f"C{number}")
    axis.axhline(1, lw=1, color="grey")
    axis.set(
        title="Speed over plain decoding or no drafts, the faster",
        xlabel="draft tokens",
        ylabel="times",
    )
    axis.set_xticks(result["lengths"])
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    return figure


def draw_serve(pyplot: Any, result: Mapping[str, Any]) -> Any:
    """How long answers and first tokens take by the rate of arrivals, medians with the spread of
    the rounds; requests that come all at once stand at the right end."""
    figure, axes = pyplot.subplots(1, 2, figsize=(SIZE[0] * 2 / 3, SIZE[1]))
    rates = result["arrivals"]["rates"]
    places = {rate: place for place, rate in enumerate(rates)}
    for axis, key, title in zip(
        axes,
        ("answer_ms", "first_token_ms"),
        ("Median time of an answer", "Median time to the first token"),
        strict=True,
    ):
        for number, method in enumerate(m["name"] for m in result["methods"]):
            found = [
                s | {"place": places[s["rate"]]} for s in result["served"] if s["method"] == method
            ]
            _line(axis, found, key, f"C{number}", method, "place")
        axis.set_xticks(list(places.values()), ["all" if r is None else f"{r:g}" for r in rates])
        axis.set(title=title, xlabel="requests/s", ylabel="ms", ylim=(0, None))
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    return figure


def _line(
    axis: Any,
    found: Sequence[Mapping[str, Any]],
    key: str,
    colour: str,
    name: str,
    over: str = "streams",
    style: str = "-o",
) -> None:
    if not found:
        return
    medians = [f[key]["median"] for f in found]
    below = [f[key]["median"] - f[key]["least"] for f in found]
    above = [f[key]["most"] - f[key]["median"] for f in found]
    axis.errorbar(
        [f[over] for f in found],
        medians,
        [below, above],
        fmt=style,
        markersize=4,
        capsize=3,
        color=colour,
        label=name,
    )
