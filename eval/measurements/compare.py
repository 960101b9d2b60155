"""Plain decoding against L-MTP in one process: outputs, acceptance, speed, as plain values."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from vllm_lmtp import __version__
from vllm_lmtp.checkpoints.subject import Subject, chat_prompt, chat_tokenizer
from vllm_lmtp.eval.engines.engine import Engine, Run
from vllm_lmtp.eval.engines.variants import WHOLE
from vllm_lmtp.eval.measurements.counted import summarise
from vllm_lmtp.eval.prompts.lengths import mixed_lengths
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_checkpoint, read_config
from vllm_lmtp.formats.hub import resolve_folder
from vllm_lmtp.formats.tokenizer import has_tokenizer

# Longer than any prompt of ours; a large model's whole context would not fit a small cache.
ROOM_FOR_PROMPT = 128

# Times that each prompt is asked where many streams go on: one by one they take far longer.
ASKED = 4

HEADS_ALONE = {"lmtp_scorer": "none", "lmtp_copy": "off"}
"""The heads as published: each place's own best token drafted."""

Say = Callable[[str], None]
"""Tells the user what is being done."""


def compare(
    subject: Subject,
    say: Say,
    *,
    stride: int | None,
    num_prompts: int,
    max_tokens: int,
    temperature: float,
    dtype: str,
    rounds: int,
) -> dict[str, Any]:
    """Run both engines and compare them.

    Rounds alternate between the engines, prompt by prompt where there is one stream, so that
    whatever else the machine does falls on both; speeds are medians over the rounds.

    Raises:
        LMTPError: the checkpoint cannot be served.
    """
    model = subject.model
    checkpoint = read_checkpoint(resolve_folder(subject.heads or model), stride)
    asked: list[Any] = list(subject.prompts[:num_prompts])
    if not has_tokenizer(model):
        asked = _random_prompts(num_prompts, checkpoint.vocab_size)
    prompts = asked
    if subject.chat:
        tokenizer = chat_tokenizer(model)
        prompts = [chat_prompt(tokenizer, [{"role": "user", "content": text}]) for text in asked]
    lengths = mixed_lengths(max_tokens, ASKED * num_prompts)
    options = {
        "dtype": dtype,
        "max_num_seqs": num_prompts,
        "max_model_len": context(model, max(lengths) + ROOM_FOR_PROMPT),
    }
    drafts = {
        name: _accepted(
            checkpoint, subject, say, name, spec, prompts, max_tokens, temperature, options
        )
        for name, spec in (("whole drafts", WHOLE), ("heads alone", WHOLE | HEADS_ALONE))
    }
    pair = Pair(subject, say, max_tokens, temperature, stride, **options)
    say("warming up, while the draft length is found ...")
    pair.generate_one_by_one(prompts)
    pair.generate(list(prompts) * ASKED, lengths)
    single: list[tuple[Run, Run]] = []
    batch: list[tuple[Run, Run]] = []
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds} ...")
        single.append(pair.generate_one_by_one(prompts))
        batch.append(pair.generate(list(prompts) * ASKED, lengths))
    in_use = pair.lmtp.draft_lengths()
    runner = 2 if pair.lmtp.llm.llm_engine.vllm_config.use_v2_model_runner else 1
    pair.close()
    texts = [_compare_prompt(i, asked[i], single[0], batch[0]) for i in range(num_prompts)]
    return {
        "versions": {"vllm_lmtp": __version__, "vllm": _vllm_version(), "model_runner": runner},
        "model": model,
        "heads": str(checkpoint.path),
        "n_heads": checkpoint.schedule.n_heads,
        "stride": checkpoint.schedule.stride,
        "settings": {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "dtype": dtype,
            "rounds": rounds,
        },
        "prompts": texts,
        "must_be_identical": temperature == 0 and dtype == "float32",
        "identical": all(text["identical"] for text in texts),
        "acceptance": drafts["whole drafts"],
        "acceptance_of_heads_alone": drafts["heads alone"],
        "draft_lengths": in_use,
        "speed": [_speed(1, single), _speed(num_prompts, batch)],
    }


class Pair:
    """A plain engine and one with leap heads on the same model, asked the same.

    Args:
        subject: the models.
        say: told when an engine has started.
        max_tokens, temperature: of every answer.
        stride: instead of the stated one.
        options: further arguments of `vllm.LLM`.

    Raises:
        LMTPError: the checkpoint cannot be served.
    """

    def __init__(
        self,
        subject: Subject,
        say: Say,
        max_tokens: int,
        temperature: float,
        stride: int | None,
        **options: Any,
    ) -> None:
        readable = has_tokenizer(subject.model)
        given = _heads_config(subject, lmtp_stride=stride)
        self.plain = _start(say, "plain", subject.model, None, readable, **options)
        # The last one started, since only that one shows its counters.
        self.lmtp = _start(say, "L-MTP", subject.model, given, readable, **options)
        self.max_tokens, self.temperature = max_tokens, temperature

    def close(self) -> None:
        """Stop both engines."""
        self.plain.close()
        self.lmtp.close()

    def generate(
        self, prompts: Sequence[Any], lengths: Sequence[int] | None = None
    ) -> tuple[Run, Run]:
        """Plain and then L-MTP, as many prompts at a time as the engines take: as one answer ends,
        the next begins. lengths: tokens of each answer instead of `max_tokens`."""
        wanted = lengths or self.max_tokens
        return (
            self.plain.generate(prompts, wanted, self.temperature),
            self.lmtp.generate(prompts, wanted, self.temperature),
        )

    def generate_one_by_one(self, prompts: Sequence[Any]) -> tuple[Run, Run]:
        """One stream at a time."""
        plain, lmtp = Run(), Run()
        for prompt in prompts:
            one, other = self.generate([prompt])
            plain.add(one)
            lmtp.add(other)
        return plain, lmtp


def _heads_config(subject: Subject, **options: Any) -> dict[str, Any]:
    spec = {"method": "lmtp", "model": subject.heads, **options}
    return {key: value for key, value in spec.items() if value is not None}


def _accepted(
    checkpoint: HeadsCheckpoint,
    subject: Subject,
    say: Say,
    name: str,
    spec: dict[str, Any],
    prompts: Sequence[Any],
    max_tokens: int,
    temperature: float,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Acceptance of drafts that are whole at every step, with one stream, where every engine step
    is one step of one request."""
    config = _heads_config(subject, lmtp_stride=checkpoint.schedule.stride, **spec)
    readable = has_tokenizer(subject.model)
    engine = _start(say, f"L-MTP, {name},", subject.model, config, readable, **options)
    total = Run()
    for prompt in prompts:
        total.add(engine.generate([prompt], max_tokens, temperature))
    engine.close()
    return summarise(checkpoint.schedule, total)


def _start(say: Say, name: str, *args: Any, **options: Any) -> Engine:
    start = time.perf_counter()
    engine = Engine(*args, **options)
    say(f"started the {name} engine in {time.perf_counter() - start:.1f} s")
    return engine


def _compare_prompt(
    number: int, prompt: Any, single: tuple[Run, Run], batch: tuple[Run, Run]
) -> dict[str, Any]:
    plain, lmtp = single
    alone = plain.tokens[number] == lmtp.tokens[number]
    asked = range(number, len(batch[0].tokens), len(plain.tokens))
    together = all(batch[0].tokens[i] == batch[1].tokens[i] for i in asked)
    return {
        "prompt": prompt,
        "plain": {"text": plain.texts[number], "tokens": plain.tokens[number]},
        "lmtp": {"text": lmtp.texts[number], "tokens": lmtp.tokens[number]},
        "identical_alone": alone,
        "identical_in_batch": together,
        "identical": alone and together,
    }


def _speed(streams: int, rounds: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    """Tokens a second of both engines; the ratio is the median of the rounds' own ratios."""
    plain = [p.num_tokens / p.seconds for p, _ in rounds]
    lmtp = [q.num_tokens / q.seconds for _, q in rounds]
    ratios = [q / p for p, q in zip(plain, lmtp, strict=True)]
    return {
        "streams": streams,
        "plain_tokens_per_second": statistics.median(plain),
        "lmtp_tokens_per_second": statistics.median(lmtp),
        "ratio": statistics.median(ratios),
        "ratio_of_each_round": ratios,
    }


def _random_prompts(count: int, vocab_size: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(vocab_size) for _ in range(4)] for _ in range(count)]


def context(model: str, wanted: int) -> int:
    """A context of `wanted` tokens, or the model's own where that is shorter."""
    config = read_config(resolve_folder(model))
    return min(int(config.get("max_position_embeddings") or wanted), wanted)


def _vllm_version() -> str:
    from vllm_lmtp.compat import vllm_version

    return vllm_version()
