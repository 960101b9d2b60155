"""Every kind of target that L-MTP checkpoints were made for, tiny and random."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
)

from tests.engine.client import EngineHost, counted
from tests.support.chain.target import Counters
from tests.support.transformers_oracle import Oracle

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 131,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GEMMA = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}


def _gemma3_multimodal() -> Gemma3ForConditionalGeneration:
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=56,
        patch_size=14,
    )
    text = Gemma3TextConfig(**SIZES, **GEMMA)
    config = Gemma3Config(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        mm_tokens_per_image=4,
        image_token_index=130,
        boi_token_index=128,
        eoi_token_index=129,
    )
    return Gemma3ForConditionalGeneration(config)


TARGETS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "gemma3-text": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **GEMMA)),
    "gemma3-multimodal": _gemma3_multimodal,
}


def make_target(name: str, folder: Path) -> tuple[Path, Path | None]:
    """Save a target with random heads; returns (folder with the heads, target if apart)."""
    torch.manual_seed(3)
    model = TARGETS[name]().eval()
    for parameter in model.parameters():  # larger than at initialisation, so that tokens vary
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.15)
    model.save_pretrained(folder)
    embed = model.get_input_embeddings().weight.data
    heads = {}
    for i in range(2):
        heads[f"heads.heads.{i}.resblock.0.l_proj.weight"] = 0.1 * torch.randn(64, 64)
        heads[f"heads.heads.{i}.resblock.0.l_proj.bias"] = 0.1 * torch.randn(64)
        # Close to the model's own output matrix, so that some drafts are right in a loop.
        heads[f"heads.heads.{i}.lm_head.weight"] = embed + 0.01 * torch.randn_like(embed)
    config = json.loads((folder / "config.json").read_text())
    head_config = {"n_head": 2, "head_num_layers": 1, "head_type": "lmtp", "skip_token": 2}
    if "vision_config" in config:
        apart = folder.parent / f"{folder.name}-heads"
        apart.mkdir()
        sizes = {"hidden_size": 64, "vocab_size": 131}
        (apart / "config.json").write_text(json.dumps(head_config | sizes))
        save_file(heads, str(apart / "model.safetensors"))
        return apart, folder
    tensors = load_file(folder / "model.safetensors")
    if config["tie_word_embeddings"]:  # the reference writes tied matrices twice
        tensors["lm_head.weight"] = embed.clone()
    save_file(tensors | heads, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config |= head_config | {"architectures": ["LMTPModel"]}
    if name == "gemma3-text":  # the reference's Gemma folders say only this much
        del config["n_head"], config["head_num_layers"], config["head_type"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder, None


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "gemma3-multimodal"])
def test_text_target(host: EngineHost, tmp_path: Path, name: str) -> None:
    if host.asynchronous:
        pytest.skip("run on both runners already; scheduling ahead is tested on the chain target")
    heads, _ = make_target(name, tmp_path / name)
    host.start(heads, speculative_config="lmtp", max_model_len=256)
    check(host, heads, None)


@pytest.mark.parametrize("runner", [1, 2])
def test_text_drafts_for_a_multimodal_target(runner: int, tmp_path: Path) -> None:
    missing = importlib.util.find_spec("torchvision") is None
    stand_in = Path(__file__).parent / "no_vision" if missing else None
    host = EngineHost(runner, False, tmp_path / "host.log", path=stand_in)
    try:
        heads, target = make_target("gemma3-multimodal", tmp_path / "gemma3")
        host.start(
            target,
            speculative_config={"method": "lmtp", "model": str(heads)},
            max_model_len=256,
            limit_mm_per_prompt={"image": 0},
        )
        check(host, heads, target)
    finally:
        host.close()


def check(host: EngineHost, heads: Path, target: Path | None) -> None:
    """Tokens and counters are what transformers recomputes."""
    raw = heads / "config.json"
    raw.write_text(json.dumps({"n_head": 2} | json.loads(raw.read_text())))
    oracle = Oracle(heads, target)
    rng = random.Random(1)
    prompts = [[rng.randrange(1, 120) for _ in range(n)] for n in (1, 5, 40)]
    reply = host.generate(
        prompts, {"temperature": 0, "max_tokens": 40, "ignore_eos": True, "detokenize": False}
    )
    expected = Counters.zero(4)
    for prompt, (tokens,) in zip(prompts, reply["tokens"], strict=True):
        output, counters = oracle.expect(prompt, 40)
        assert tokens == output
        expected += counters
    assert counted(reply["counters"], 4, 2) == expected
