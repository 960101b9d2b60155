"""The model card of a stage-2 adapter, written from its training log alone."""

from __future__ import annotations

from typing import Any


def adapter_card(content: dict[str, Any]) -> str:
    """README.md for the adapter folder of a stage-2 run."""
    config, data, held_out = content["config"], content["data"], content["held_out"]
    lora, before, after = config["lora"], held_out["stage1"], held_out["stage2"]
    heads = zip(before["heads"], after["heads"], strict=True)
    lines = [
        f"# Stage-2 adapter of {config['stage1']}",
        "",
        "A LoRA adapter (PEFT) of backbone and leap heads (L-MTP, arXiv 2505.17505, stage 2): "
        f"r {lora['r']}, alpha {lora['alpha']:g}, {content['adapter_parameters']:,} parameters, "
        f"heads of stride {content['stride']}. To serve it:",
        "",
        "    vllm-lmtp merge STAGE1 ADAPTER OUT",
        "",
        f"Trained on {data['train_texts']:,} texts ({data['train_tokens']:,} tokens), "
        f"{content['steps']:,} steps, {content['epochs']} epochs, "
        f"head weight {config['head_weight']}, seed {config['seed']}.",
        "",
        f"    {content['command']}",
        "",
        f"Held out ({held_out['texts']} texts, {held_out['tokens']:,} tokens), before the merged "
        "weights are rounded to the file's dtype:",
        "",
        "| | stage 1 | stage 2 |",
        "|---|---|---|",
        f"| next-token loss of the answers (nats) | {before['next_token_loss']:.4f} "
        f"| {after['next_token_loss']:.4f} |",
        *(
            f"| head {b['head']}, offset {b['offset']}: top-1 | {b['top1']:.4f} | {a['top1']:.4f} |"
            for b, a in heads
        ),
        "",
        "## Versions",
        "",
        ", ".join(f"{k} {v}" for k, v in content["versions"].items())
        + ". All settings and losses: training_log.json; curves: loss.png.",
        "",
    ]
    return "\n".join(lines)
