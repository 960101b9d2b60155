"""What prompts are cut from: texts that the target writes itself."""

from __future__ import annotations

import random

from vllm_lmtp.eval.engines.engine import Engine
from vllm_lmtp.eval.prompts.asking import Progress, Settings, encode_prompts, longest_request
from vllm_lmtp.eval.prompts.sets import load_set
from vllm_lmtp.formats.checkpoint import read_config
from vllm_lmtp.formats.hub import resolve_folder
from vllm_lmtp.formats.tokenizer import has_tokenizer

LENGTH = 256
"""Tokens of one text, at most."""


def write_texts(settings: Settings, tokens: int, progress: Progress) -> list[list[int]]:
    """At least so many tokens, sampled by plain decoding at temperature 1, the openings among them.

    Raises:
        LMTPError: the target cannot be read.
    """
    openings = _openings(settings)
    most = longest_request(settings.model) or 2 * LENGTH
    length = min(LENGTH, most // 2)
    engine = Engine(
        settings.model,
        None,
        has_tokenizer(settings.model),
        dtype=settings.dtype,
        max_num_seqs=settings.batch,
        max_model_len=min(most, max(map(len, openings)) + length),
        # A seeded request whose prompt comes in chunks stops vLLM's CPU engine.
        enable_chunked_prefill=False,
    )
    texts: list[list[int]] = []
    have = 0
    try:
        while have < tokens:
            asked = [openings[(len(texts) + i) % len(openings)] for i in range(settings.batch)]
            seed = settings.seed + len(texts)
            answers = engine.generate(asked, length, 1.0, seed).tokens
            found = [[*prompt, *answer] for prompt, answer in zip(asked, answers, strict=True)]
            texts += found
            have += sum(map(len, found))
            progress(f"texts: {min(have, tokens)} of {tokens} tokens")
    finally:
        engine.close()
    return texts


def _openings(settings: Settings) -> list[list[int]]:
    """Of this package's own: questions for a chat model, stories for others; tokens by lot where
    there is no tokenizer to read them with."""
    if has_tokenizer(settings.model):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(settings.model, trust_remote_code=False)
        chat = tokenizer.chat_template is not None
        questions = encode_prompts(load_set("questions" if chat else "stories"), settings)
        return [asked.tokens for asked in questions.asked]
    config = read_config(resolve_folder(settings.model))
    dice = random.Random(settings.seed)
    return [[dice.randrange(int(config["vocab_size"]))] for _ in range(12)]
