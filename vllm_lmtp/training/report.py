"""What a training run says about itself: versions, settings, sample stories and a picture."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

STORY_TOKENS = 300


def model_log(config_path: Path, run: Any) -> dict[str, Any]:
    """The head of a training log: the command, the settings and the versions."""
    names = ("torch", "transformers", "tokenizers", "accelerate")
    return {
        "command": f"vllm-lmtp train {config_path.as_posix()}",
        "config": dataclasses.asdict(run),
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
