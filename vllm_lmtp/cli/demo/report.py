"""The demo's result for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from vllm_lmtp.cli.shared.output import print_table

WIDTH = 48


def print_report(result: Mapping[str, Any], shown: int) -> None:
    """Print the whole comparison, with the first `shown` answers."""
    versions = result["versions"]
    print(
        f"{result['model']}: {result['n_heads']} head(s), stride {result['stride']}; vllm-lmtp "
        f"{versions['vllm_lmtp']}, vLLM {versions['vllm']}, "
        f"Model Runner V{versions['model_runner']}"
    )
    print()
    _print_texts(result, shown)
    _print_acceptance(result["acceptance"])
    _print_alone(result["acceptance"], result["acceptance_of_heads_alone"])
    print_table(
        [
            (
                f"{speed['streams']} stream(s)",
                f"{speed['plain_tokens_per_second']:.1f}",
                f"{speed['lmtp_tokens_per_second']:.1f}",
                f"{speed['ratio']:.2f}x",
                ", ".join(f"{ratio:.2f}" for ratio in speed["ratio_of_each_round"]),
            )
            for speed in result["speed"]
        ],
        ("tokens/s", "plain", "L-MTP", "ratio", "of each round"),
        f"Speed, medians of {result['settings']['rounds']} round(s)",
    )
    print_table(
        [
            (f"up to {used['requests']}", _length(used["length"]), f"{used['gain']:.2f}x")
            for used in result["draft_lengths"]
        ],
        ("requests", "drafts a request", "speed over plain, estimated"),
        "Draft length found while serving",
    )


def _print_texts(result: Mapping[str, Any], shown: int) -> None:
    prompts = result["prompts"]
    print_table(
        [
            (_wrap(p["prompt"]), _wrap(_shown(p["plain"])), _wrap(_shown(p["lmtp"])))
            for p in prompts[:shown]
        ],
        ("prompt", "plain", "L-MTP"),
        f"What was written ({min(shown, len(prompts))} of {len(prompts)})",
    )
    same = ["yes" if p["identical"] else "no" for p in prompts]
    print(f"identical: {' '.join(same)} ({same.count('yes')} of {len(same)})")
    if not result["must_be_identical"]:
        print("  (only greedy float32 outputs must be; sampled ones agree in distribution)")
    elif not result["identical"]:
        print("  OUTPUTS DIFFER: please report this with `vllm-lmtp doctor --json`")
    print()


def _print_acceptance(acceptance: Mapping[str, Any]) -> None:
    print_table(
        [
            (p["place"], p["offset"], p["head"], p["lag"], p["drafted"], p["accepted"], _rate(p))
            for p in acceptance["by_position"]
        ],
        ("position", "offset", "head", "lag", "drafted", "accepted", "rate"),
        "Acceptance of whole drafts, one stream at a time",
    )
    for name in ("head", "lag", "source"):
        print_table(
            [
                (group[name], group["drafted"], group["accepted"], _rate(group))
                for group in acceptance[f"by_{name}"]
            ],
            (name, "drafted", "accepted", "rate"),
        )
    print_table(
        [
            ("mean acceptance length", _number(acceptance["mean_acceptance_length"])),
            ("tokens per step", _number(acceptance["tokens_per_step"])),
            ("drafts", acceptance["drafts"]),
            ("cold drafts", acceptance["cold_drafts"]),
        ],
        (),
    )


def _print_alone(served: Mapping[str, Any], alone: Mapping[str, Any]) -> None:
    """What scorer and copies add, place by place; docs/scorer.md says how."""
    rows = [
        (name, *(_rate(p) for p in acceptance["by_position"]), _number(mean))
        for name, acceptance in (("whole drafts", served), ("heads alone", alone))
        for mean in [acceptance["mean_acceptance_length"]]
    ]
    places = [str(p["place"]) for p in served["by_position"]]
    title = "Acceptance of whole drafts, and of the heads alone: no scorer, no copies"
    print_table(rows, ("", *places, "mean length"), title)


def _length(length: float) -> str:
    return f"copies alone, up to {-length:.0f}" if length < 0 else f"{length:.0f}"


def _shown(output: Mapping[str, Any]) -> str:
    text: str = output["text"].strip()
    return text or " ".join(map(str, output["tokens"][:24])) + " ..."


def _wrap(value: Any) -> str:
    text = value if isinstance(value, str) else " ".join(map(str, value))
    return textwrap.fill(textwrap.shorten(text, 6 * WIDTH, placeholder=" ..."), WIDTH)


def _rate(counted: Mapping[str, Any]) -> str:
    return "-" if counted["rate"] is None else f"{counted['rate']:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
