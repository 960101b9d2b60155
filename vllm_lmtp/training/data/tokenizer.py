"""A small byte-level BPE tokenizer, trained on the corpus and saved as a Hugging Face fast one.

Every text is encodable (all 256 bytes are tokens), encoding prepends BOS, and nothing appends EOS:
the rows for training add it themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vllm_lmtp.formats.whole import write_json

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_positions: int) -> Any:
    """Train a tokenizer with exactly `vocab_size` entries, BOS, EOS and padding included.

    Returns:
        A transformers PreTrainedTokenizerFast.

    Raises:
        LMTPError: the texts are too few for that many entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from vllm_lmtp.errors import refuse

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise refuse(
            "corpus",
            "vocab_size",
            found=f"text for only {tokenizer.get_vocab_size()} tokens",
            expected=str(vocab_size),
            remedy="sample more text, or lower vocab_size",
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, BOS_ID)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=max_positions,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer under a class name that transformers 4 and 5 both know."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("is_local", "local_files_only"):
        config.pop(key, None)
    write_json(path, config)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder; code in the folder is never run.

    Raises:
        LMTPError: there is none.
    """
    from transformers import AutoTokenizer

    from vllm_lmtp.errors import refuse
    from vllm_lmtp.formats.tokenizer import has_tokenizer

    if not has_tokenizer(str(folder)):
        raise refuse(
            str(folder),
            "tokenizer",
            found="none",
            expected="the tokenizer's files beside the weights",
            remedy="copy them from the model that the folder was made of",
        )
    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
