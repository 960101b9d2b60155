"""What stands beside heads that were made: a card and a picture of how they learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def command(asked: Mapping[str, Any], name: str) -> str:
    """What was asked for, as it is typed; the given prompts are not named, other heads are.

    Args:
        asked: of the plan. name: of the output.
    """
    given = " --prompts FILE" if asked["prompts"] else ""
    init = f" --init {asked['init']}" if asked.get("init") else ""
    return f"vllm-lmtp heads {asked['model']} {name} --minutes {asked['minutes']:g}{given}{init}"


def card(report: Mapping[str, Any], log: Mapping[str, Any]) -> str:
    """README.md of the folder."""
    config, text, vocab = log["config"], log["own_text"], log["draft_vocab"]
    heads, optim = config["heads"], config["optim"]
    lines = [
        f"# {config['model_name']}: leap heads for {report['model']}",
        "",
        f"{heads['n_head']} heads of stride {heads['skip_token']} with a recurrent term of rank "
        f"{config['recurrent']['rank']} (L-MTP, arXiv 2505.17505) over {vocab['size']:,} tokens, "
        f"which cover {100 * vocab['held_out_coverage']:.1f} % of held-out answers. They are used "
        f"beside the model that they were made for:",
        "",
        f"    vllm serve {report['model']} --speculative-config "
        f'\'{{"method": "lmtp", "model": "{config["model_name"]}"}}\'',
        "",
        "## Tokens a step on held-out answers",
        "",
        "| temperature | without a scorer | with the term | positions |",
        "|---|---|---|---|",
        *(
            f"| {temperature} | {row['without a scorer']:.3f} | {row['with the term']:.3f} "
            f"| {row['positions']:,} |"
            for temperature, row in report["tokens_a_step"].items()
        ),
        "",
        f"Greedy answers, walked through as an engine does: {report['copying']['heads_alone']:.3f} "
        f"by heads and term, {report['copying']['fitted']:.3f} with copying from the text. "
        "Counted offline; an engine's own counters: `vllm-lmtp eval acceptance`.",
        "",
        "![how they learnt](curves.png)",
        "",
        "## How they were made",
        "",
        f"    {log['command']}",
        "",
        f"{text['train_texts']:,} answers of the model itself, {text['train_tokens']:,} tokens, at "
        f"temperatures 0, 0.7 and 1; {log['steps']:,} steps of {optim['batch_rows']} positions, "
        f"{log['epochs']} epochs; the state after step {log['best_step']:,} was kept. "
        f"{report['seconds'] / 60:.1f} minutes in all. Loss "
        + ", ".join(f"{weight:g} {name}" for name, weight in config["loss"].items() if weight)
        + f"; seed {config['seed']}.",
        "",
        ", ".join(f"{name} {version}" for name, version in log["versions"].items())
        + ". All settings, losses and accuracies: training_log.json, heads.json.",
        "",
    ]
    return "\n".join(lines)


def curves(history: Sequence[Mapping[str, float]], file: Path) -> None:
    """Draw the loss and tokens a step on held-out answers over the steps, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (losses, lengths) = pyplot.subplots(1, 2, figsize=(9, 3.2))
    points = [entry for entry in history if "loss" in entry]
    losses.plot([e["step"] for e in points], [e["loss"] for e in points], lw=1)
    losses.set(title="loss, places weighted and summed", xlabel="step")
    points = [entry for entry in history if "eval_length" in entry]
    names = sorted({key for entry in points for key in entry if key.startswith("eval_length_")})
    for name in names:
        temperature = name.removeprefix("eval_length_")
        lengths.plot(
            [e["step"] for e in points],
            [e[name] for e in points],
            marker="o",
            ms=3,
            lw=1,
            label=f"temperature {temperature}",
        )
    lengths.set(title="tokens a step, held out", xlabel="step")
    lengths.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=90, metadata={"Software": None})
    pyplot.close(figure)
