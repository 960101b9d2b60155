"""Prompts to token ids, and engines that answer them: what every measurement does first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.eval.engines.engine import Engine, Run
from vllm_lmtp.eval.prompts.sets import EvalPrompt, Loaded
from vllm_lmtp.formats.checkpoint import read_config
from vllm_lmtp.formats.hub import resolve_folder
from vllm_lmtp.formats.tokenizer import has_tokenizer
from vllm_lmtp.training.distillation.prompts import Prompt, encode

STYLES = ("auto", "chat", "raw")
# Drafts that would reach beyond the engine's longest request are cut; no such draft may be.
ROOM_FOR_DRAFT = 64
# Prompts handed to the engine at once, in batches: fewer, and its slots stand empty at each end.
BATCHES = 4
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How answers are made. batch: requests at a time. seed: of the first prompt of a set when
    sampling; each prompt has a seed of its own."""

    model: str
    max_tokens: int
    dtype: str
    batch: int
    seed: int
    style: str


@dataclass(frozen=True)
class Asked:
    """A prompt as the model sees it."""

    prompt: EvalPrompt
    tokens: list[int]


@dataclass(frozen=True)
class Questions:
    """asked: the prompts that fit the model. facts: about the set and what became of it. context:
    the longest request that an engine must take."""

    asked: tuple[Asked, ...]
    facts: dict[str, Any]
    context: int


def encode_prompts(
    loaded: Loaded, settings: Settings, longest: int | None = None, system: str = ""
) -> Questions:
    """Put a set's prompts into tokens.

    Prompts that leave no room for `max_tokens`, or have more tokens than `longest`, are left out
    and counted.

    Args:
        system: what the system says in the chat template; nothing by default.

    Raises:
        LMTPError: the model has no tokenizer or no chat template where one is needed, or no prompt
            fits.
    """
    model = settings.model
    tokenizer = _tokenizer(model) if has_tokenizer(model) else None
    chat = _is_chat(settings.style, tokenizer, model)
    most = longest_request(model)
    room = math.inf if most is None else most - settings.max_tokens
    room = min(room, math.inf if longest is None else longest)
    before = (("system", system),) if system else ()
    asked, too_long = [], 0
    for prompt in loaded.prompts:
        if prompt.tokens is not None:
            ids = list(prompt.tokens)
        elif tokenizer is None:
            raise refuse(
                model,
                "tokenizer",
                found="none",
                expected="tokenizer.json, to read prompts with",
                remedy="copy the tokenizer into the folder, or give prompts as tokens",
            )
        else:
            ids = encode(Prompt(prompt.text or "", "", before), tokenizer, chat)
        if len(ids) > room:
            too_long += 1
        else:
            asked.append(Asked(prompt, ids))
    if not asked:
        raise refuse(
            "--set",
            "prompts",
            found=f"{too_long}, none of which fits",
            expected=f"prompts that leave room for {settings.max_tokens} of {most} tokens"
            + (f" and have at most {longest}" if longest is not None else ""),
            remedy="lower --max-tokens, raise --longest, or take another set",
        )
    context = max(len(a.tokens) for a in asked) + settings.max_tokens + ROOM_FOR_DRAFT
    facts = loaded.facts | {
        "style": "a user's turn in the chat template" if chat else "raw text",
        "too_long": too_long,
        "longest": longest,
        "asked": len(asked),
    }
    return Questions(tuple(asked), facts, context if most is None else min(context, most))


def start(
    settings: Settings, questions: Questions, speculative_config: dict[str, Any] | None
) -> Engine:
    """An engine for these questions; None for plain decoding."""
    detailed = {"per_request_spec_decode_metrics": "detailed"}
    return Engine(
        settings.model,
        speculative_config,
        has_tokenizer(settings.model),
        dtype=settings.dtype,
        max_num_seqs=settings.batch,
        max_model_len=questions.context,
        # A seeded request whose prompt comes in chunks stops vLLM's CPU engine.
        enable_chunked_prefill=False,
        **(detailed if speculative_config is not None else {}),
    )


def ask(
    engine: Engine,
    questions: Questions,
    settings: Settings,
    temperature: float,
    progress: Progress,
    name: str,
) -> Run:
    """Answer all questions, saying how far it is."""
    run, asked = Run(), questions.asked
    size = settings.batch * BATCHES
    for first in range(0, len(asked), size):
        part = asked[first : first + size]
        run.add(
            engine.generate(
                [a.tokens for a in part],
                settings.max_tokens,
                temperature,
                settings.seed + first,
            )
        )
        done = first + len(part)
        progress(f"{name}, T = {temperature:g}: {done} of {len(asked)} answers")
    return run


def _tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, trust_remote_code=False)


def _is_chat(style: str, tokenizer: Any, model: str) -> bool:
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if style == "chat" and not has_template:
        raise refuse(
            model,
            "chat_template",
            found="none",
            expected="a chat template, as --style chat asks for",
            remedy="leave --style out, or use a chat model",
        )
    return has_template and style != "raw"


def longest_request(model: str) -> int | None:
    """Positions that a model has; None where it does not say."""
    config = read_config(resolve_folder(model))
    value = config.get("text_config", config).get("max_position_embeddings")
    return int(value) if value else None
