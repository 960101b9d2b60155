"""A folder that vLLM serves as a model with dummy weights, so that the scripts need no download."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 4,
    "torch_dtype": "float32",
    "vocab_size": 512,
}


def save_tiny_model() -> str:
    """Write the folder; returns its path."""
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return str(folder)


def save_random_model() -> str:
    """As `save_tiny_model`, with weights under which answers depend on all of the text, and repeat
    themselves."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = save_tiny_model()
    torch.manual_seed(0)
    config = Qwen2Config.from_pretrained(folder, tie_word_embeddings=True)
    model = Qwen2ForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.05)
    model.save_pretrained(folder)
    return folder


def save_tokenizer(folder: str) -> None:
    """Write one beside the model: token n is the word wn."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(CONFIG["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


ARGUMENTS = {
    "load_format": "dummy",
    "skip_tokenizer_init": True,
    "enforce_eager": True,
    "max_model_len": 256,
    "max_num_seqs": 4,
}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2}
