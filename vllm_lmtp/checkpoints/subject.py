"""What a demo runs on: the models, what they are asked, and how long that may take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.checkpoints.openings import OPENINGS
from vllm_lmtp.checkpoints.questions import QUESTIONS
from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.tokenizer import has_tokenizer

EMBEDDED = Path(__file__).with_name("tiny")


@dataclass(frozen=True)
class Subject:
    """model: folder or id of the target. heads: of the heads, None where `model` holds them.

    prompts: texts. chat: whether they are a user's turns, to be put into the chat template.
    shown: how many answers the report prints. max_tokens, rounds, threads: defaults.
    """

    model: str
    heads: str | None
    prompts: Sequence[str] = OPENINGS
    chat: bool = False
    shown: int = 3
    max_tokens: int = 96
    rounds: int = 5
    threads: int = 1


def subject_of(model: str | None, heads: str | None) -> Subject:
    """The subject that `--model` and `--heads` name.

    Raises:
        LMTPError: the named model cannot be prepared, or comes without heads.
    """
    from vllm_lmtp.checkpoints import smollm2
    from vllm_lmtp.checkpoints.names import folder_or_id, is_packaged

    if model is None or not is_packaged(model):
        return Subject(model or str(EMBEDDED), heads)
    if heads is None and model != smollm2.NAME:
        raise refuse(
            model,
            "heads",
            found="none of its own",
            expected="--heads",
            remedy=f"make some: vllm-lmtp heads {model} OUTPUT",
        )
    # Heads of the user's own need no shipped ones.
    target = str(smollm2.prepare().target) if heads is None else folder_or_id(model)
    chat = model == smollm2.NAME
    return Subject(
        target,
        str(smollm2.HEADS) if heads is None else heads,
        QUESTIONS if chat else OPENINGS,
        chat=chat,
        shown=len(QUESTIONS) if chat else 3,
        max_tokens=128,
        rounds=1,
        threads=len(os.sched_getaffinity(0)),
    )


def chat_tokenizer(model: str) -> Any:
    """The tokenizer of a chat model, a folder or an id.

    Raises:
        LMTPError: there is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    found = "no tokenizer"
    if has_tokenizer(model):
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        if tokenizer.chat_template is not None:
            return tokenizer
        found = "a tokenizer without one"
    raise refuse(
        model,
        "chat_template",
        found=found,
        expected="the template of a chat model",
        remedy="talk to a chat model, such as --model smollm2, or leave --chat out",
    )


def chat_prompt(tokenizer: Any, turns: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation, up to where the model's next turn begins."""
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # The template writes the special tokens itself.
    return list(tokenizer.encode(text, add_special_tokens=False))
