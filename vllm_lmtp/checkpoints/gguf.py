"""A GGUF file as an ordinary Hugging Face folder in bfloat16, through transformers' own reader."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse

ADDS_BOS = "tokenizer.ggml.add_bos_token"
# Where the file lay on the machine that converted it, and nothing that a loader needs.
_DROPPED_KEYS = ("_name_or_path", "_model_name_or_path", "quantization_config")


def check_readable() -> None:
    """Before anything is fetched, refuse what would fail at the end.

    Raises:
        LMTPError: the package that transformers reads GGUF with is not installed.
    """
    if find_spec("gguf") is None:
        raise refuse(
            "Python environment",
            "packages",
            found="no module 'gguf'",
            expected="what transformers reads a GGUF file with",
            remedy="pip install gguf",
        )


def write_model(file: Path, output: Path, eos_token: str) -> None:
    """Write a GGUF file's model and tokenizer into the empty folder `output`.

    Args:
        file: quantised or not; every weight is dequantised and rounded to bfloat16.
        eos_token: what ends an answer. The tokenizer must have it; it is made the end of text.

    Raises:
        LMTPError: transformers cannot read the file, or the tokenizer lacks `eos_token`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from vllm_lmtp.formats.whole import write_json
    from vllm_lmtp.training.data.tokenizer import save_tokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(file.parent), gguf_file=file.name, trust_remote_code=False
        )
        model = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            dtype=torch.bfloat16,
            gguf_file=file.name,
            trust_remote_code=False,
            **_dequantised(file.name),
        )
    except Exception as error:  # tokenizers, for one, raises no narrower class
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise refuse(
            str(file),
            "content",
            found=f"transformers cannot read it ({reason})",
            expected="a GGUF file of a causal language model",
            remedy="install the transformers that vLLM asks for, and the newest gguf",
        ) from error
    eos = tokenizer.get_vocab().get(eos_token)
    if eos is None:
        raise refuse(
            str(file),
            "tokenizer",
            found=f"no token {eos_token!r}",
            expected="the token that ends an answer",
            remedy="give the file of the chat model",
        )
    tokenizer.eos_token = eos_token
    _begin_as_stated(file, tokenizer)
    model.config.eos_token_id = eos
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(output)
    config = output / "config.json"
    values = model.config.to_diff_dict() | {"architectures": [type(model).__name__]}
    write_json(config, {k: v for k, v in values.items() if k not in _DROPPED_KEYS})
    save_tokenizer(tokenizer, output)


def _begin_as_stated(file: Path, tokenizer: Any) -> None:
    """Let texts begin with BOS where the file says so; transformers reads the token, and not that
    it is added."""
    from gguf import GGUFReader
    from tokenizers.processors import TemplateProcessing

    stated = GGUFReader(file).fields.get(ADDS_BOS)
    bos, number = tokenizer.bos_token, tokenizer.bos_token_id
    if stated is None or not stated.contents() or tokenizer("a")["input_ids"][:1] == [number]:
        return
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, number)]
    )


def _dequantised(gguf_file: str) -> dict[str, Any]:
    """The argument that unpacks every weight. Newer transformers leave them in GGUF's blocks unless
    told so; older ones always unpack, and know no such setting."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    if config is None:
        return {}
    return {"quantization_config": config(gguf_file=gguf_file, dequantize=True)}
