"""The model card of a trained checkpoint, written from its training log alone."""

from __future__ import annotations

from typing import Any


def model_card(content: dict[str, Any]) -> str:
    """README.md for the folder of a stage-1 run."""
    config = content["config"]
    heads, data = config["heads"], content["data"]
    held_out = content["held_out"]
    lines = [
        f"# {config['model_name']}",
        "",
        "A language model with leap heads (L-MTP, arXiv 2505.17505) in the stage-1 layout: "
        f"{heads['n_head']} heads, stride {heads['skip_token']}, bfloat16, {_millions(content)}.",
        "",
        *(_backbone(content["backbone"]) if "backbone" in content else ()),
        "## Heads",
        "",
        f"Trained with the backbone frozen on {data['train_texts']:,} of its own texts "
        f"({data['train_tokens']:,} tokens{_made(content)}), {content['steps']:,} steps, "
        f"{content['epochs']} epochs, seed {config['seed']}.",
        "",
        f"    {content['command']}",
        "",
        f"Held-out accuracy ({held_out['texts']} texts, {held_out['tokens']:,} tokens):",
        "",
        "| head | offset | top-1 | top-5 |",
        "|---|---|---|---|",
        *(
            f"| {h['head']} | {h['offset']} | {h['top1']:.3f} | {h['top5']:.3f} |"
            for h in held_out["heads"]
        ),
        "",
        "Top-1 agreement with the token at each offset:",
        "",
        *_calibration(held_out["calibration"]),
        "",
        "## Versions",
        "",
        ", ".join(f"{k} {v}" for k, v in content["versions"].items())
        + ". All settings, losses and sample stories: training_log.json; curves: loss.png.",
        "",
    ]
    return "\n".join(lines)


def _made(content: dict[str, Any]) -> str:
    """How the texts came about, where this run sampled them."""
    own_text = content["config"]["own_text"]
    if own_text is None:
        return ""
    temperatures = ", ".join(map(str, own_text["temperatures"]))
    return f"; temperatures {temperatures}; {_dropped(content['data'])}"


def _backbone(log: dict[str, Any]) -> list[str]:
    corpus, config = log["corpus"], log["config"]
    return [
        "## Backbone",
        "",
        f"A Llama model of {log['parameters']:,} parameters, trained from nothing on "
        f"{corpus['train_texts']:,} texts ({corpus['train_tokens']:,} tokens; {_dropped(corpus)}) "
        f"sampled from {config['teacher'] or 'a teacher'} at temperature "
        f"{', '.join(map(str, config['corpus']['temperatures']))}; "
        f"{config['optim']['steps']:,} steps, seed {config['seed']}; "
        f"held-out loss {log['held_out_loss']} nats a token "
        f"(perplexity {log['held_out_perplexity']}).",
        "",
        f"    {log['command']}",
        "",
        *(f"{note}\n" for note in log.get("notes", ())),
    ]


def _calibration(table: dict[str, list[float]]) -> list[str]:
    width = max(len(row) for row in table.values())
    return [
        "| offset | " + " | ".join(map(str, range(1, width + 1))) + " |",
        "|---" * (width + 1) + "|",
        *(
            f"| {name} | " + " | ".join(f"{v:.3f}" for v in row) + " |"
            for name, row in table.items()
        ),
    ]


def _dropped(counts: dict[str, int]) -> str:
    reasons = ", ".join(f"{counts[r]:,} {r}" for r in ("unended", "loops", "duplicates"))
    return f"dropped of {counts['read']:,}: {reasons}"


def _millions(content: dict[str, Any]) -> str:
    heads = f"{content['head_parameters'] / 1e6:.2f} M parameters in the heads"
    if "backbone" not in content:
        return heads
    return f"{content['backbone']['parameters'] / 1e6:.2f} M in the backbone and {heads}"
