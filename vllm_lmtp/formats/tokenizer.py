"""Whether a model comes with a tokenizer."""

from __future__ import annotations

from pathlib import Path

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def has_tokenizer(model: str) -> bool:
    """Whether a folder holds one; a Hugging Face id is taken to have one.

    transformers would make up an empty tokenizer from config.json alone, so it cannot be asked.
    """
    folder = Path(model).expanduser()
    return not folder.is_dir() or any((folder / name).exists() for name in FILES)
