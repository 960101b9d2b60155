"""A tiny random Gemma 3 that sees, its tokenizer and processor, and heads beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

from tests.engine.test_real import CHECKPOINT
from tests.engine.test_targets import GEMMA, SIZES

WEIGHTS = "model.safetensors"
VOCAB, SIDE, HIDDEN = 1032, 56, 64
SPECIAL = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
LINES = ["\n" * number for number in range(1, 5)]
"""Tokens that vLLM looks up around an image, and that the stories' tokenizer has not."""


def save_target(folder: Path) -> Path:
    """The model, whose greedy text depends on the picture."""
    torch.manual_seed(0)
    text = Gemma3TextConfig(**{**SIZES, "vocab_size": VOCAB}, **GEMMA)
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=SIDE,
        patch_size=14,
    )
    config = Gemma3Config(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        mm_tokens_per_image=4,
        boi_token_index=1024,
        eoi_token_index=1025,
        image_token_index=1026,
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:  # small embeddings, lest each token only repeat itself
            parameter.data.normal_(std=0.02 if "embed_tokens" in name else 0.3)
    model.save_pretrained(folder)
    tensors = load_file(folder / WEIGHTS)
    published = {  # as the models on the hub have it, and vLLM
        name.replace("vision_tower.", "vision_tower.vision_model."): tensor
        for name, tensor in tensors.items()
    }
    save_file(published, folder / WEIGHTS, metadata={"format": "pt"})
    _save_processor(folder)
    return folder


def _save_processor(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT, extra_special_tokens=SPECIAL)
    tokenizer.add_tokens(LINES)
    places = tokenizer.convert_tokens_to_ids(list(SPECIAL.values()))
    assert places == [1024, 1025, 1026]
    tokenizer.save_pretrained(folder)
    values = {"image_seq_length": 4, "processor_class": "Gemma3Processor"}
    size = {"height": SIDE, "width": SIDE}
    image = {"image_processor_type": "Gemma3ImageProcessor", "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    (folder / "processor_config.json").write_text(json.dumps(values | {"image_processor": image}))


def save_heads(folder: Path, target: Path) -> Path:
    """Two heads, close to the model's own output matrix so that some drafts are right."""
    folder.mkdir()
    embed = load_file(target / WEIGHTS)["language_model.model.embed_tokens.weight"]
    tensors = {}
    for head in range(2):
        block = f"heads.heads.{head}.resblock.0.l_proj"
        tensors[f"{block}.weight"] = 0.1 * torch.randn(HIDDEN, HIDDEN)
        tensors[f"{block}.bias"] = 0.1 * torch.randn(HIDDEN)
        tensors[f"heads.heads.{head}.lm_head.weight"] = embed.clone()
    save_file(tensors, folder / WEIGHTS)
    config = {"n_head": 2, "head_num_layers": 1, "head_type": "lmtp", "skip_token": 2}
    sizes = {"hidden_size": HIDDEN, "vocab_size": VOCAB}
    (folder / "config.json").write_text(json.dumps(config | sizes))
    return folder


def save_pictures(folder: Path) -> list[str]:
    """Files of two pictures that differ."""
    files = []
    for number, extent in enumerate([(-2, -1.5, 1, 1.5), (-0.8, -0.2, -0.5, 0.2)]):
        file = folder / f"{number}.png"
        Image.effect_mandelbrot((80, 60), extent, 50).convert("RGB").save(file)
        files.append(str(file))
    return files
