"""What a training run says about itself: versions, settings, sample stories and a picture."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

STORY_TOKENS = 300


def model_log(config_path: Path, run: Any) -> dict[str, Any]:
    """The head of a training log: the command, the settings and the versions.

    The log is published beside the weights, so folders of this machine are reduced to names.
    """
    names = ("torch", "transformers", "tokenizers", "accelerate")
    config = dataclasses.asdict(run)
    for field in ("output", "backbone", "teacher", "stage1", "dataset"):
        if config.get(field):
            config[field] = Path(config[field]).name
    shown = config_path.name if config_path.is_absolute() else config_path.as_posix()
    return {
        "command": f"vllm-lmtp train {shown}"
        + (" --teacher FOLDER" if "teacher" in config else ""),
        "config": config,
        "versions": {name: version(name) for name in names},
    }


@torch.no_grad()
def story_samples(model: Any, tokenizer: Any, seed: int) -> list[dict[str, Any]]:
    """One greedy story and two sampled ones, continued from a common opening."""
    samples = []
    for temperature, prompt in ((0.0, "Once upon a time"), (0.7, "Once upon a time"), (0.7, "Tom")):
        torch.manual_seed(seed)
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        sampling = {"temperature": temperature, "top_k": 0} if temperature else {}
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=temperature > 0,
            max_new_tokens=STORY_TOKENS,
            **sampling,
        )
        ended = int(out[0, -1]) == tokenizer.eos_token_id
        text = tokenizer.decode(out[0], skip_special_tokens=True)
        samples.append({"temperature": temperature, "ended": ended, "text": text})
    return samples


def loss_picture(content: dict[str, Any], path: Path) -> None:
    """Draw the loss of the backbone, where known, and of each head over the steps, as PNG.

    Stage 2's next-token loss stands beside the heads'.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [("heads", content["history"])]
    if "backbone" in content:
        panels.insert(0, ("backbone", content["backbone"]["history"]))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3), squeeze=False)
    for axis, (title, history) in zip(axes[0], panels, strict=True):
        parts = sorted(k for k in history[0] if k.startswith("loss_")) if history else []
        for key in parts or ["loss"]:
            label = key.removeprefix("loss_").replace("_", " ")
            points = [e for e in history if key in e]
            axis.plot([e["step"] for e in points], [e[key] for e in points], label=label, lw=1)
        axis.set(title=title, xlabel="step", ylabel="cross-entropy (nats)")
        if parts:
            axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)
