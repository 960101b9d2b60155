"""The prompts of a self-distillation: rows of data sets, and prompts the model writes itself.

Knows nothing of engines; what it cannot read it refuses, naming the file and the row.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import numbered_lines
from vllm_lmtp.training.settings.distill import PromptSet, SelfWritten

SELF_WRITTEN = "self-written"
NOTHING = "nothing"
# Stands for the user's words while a chat template is taken apart; no template contains it.
_MARK = "\u0007user\u0007"


@dataclass(frozen=True)
class Prompt:
    """What the model is asked. text: the user's words, the last ones of a conversation. source: the
    set it is from. before: the turns before those words, as (role, content)."""

    text: str
    source: str
    before: tuple[tuple[str, str], ...] = ()


def read_prompts(prompt_set: PromptSet, data: Path | None, seed: int) -> list[Prompt]:
    """The prompts of one set, each `times` times.

    Args:
        data: a folder that may hold `<name>.jsonl`; without it the set's public id is fetched.
        seed: draws the rows where `limit` leaves some out, or `besides`.

    Raises:
        LMTPError: the data cannot be had, or a row lacks a field of the template.
    """
    file = None if data is None else data / f"{prompt_set.name}.jsonl"
    where = str(file) if file is not None and file.is_file() else prompt_set.dataset
    rows = file_rows(file) if file is not None and file.is_file() else _hub_rows(prompt_set, data)
    found = []
    for number, row in enumerate(rows, 1):
        try:
            if prompt_set.number is not None:
                value = int(row[prompt_set.number])
                if not prompt_set.first <= value <= prompt_set.last:
                    continue
            if prompt_set.messages is not None and prompt_set.messages in row:
                found.append(_conversation(row[prompt_set.messages], prompt_set.name))
            else:
                found.append(Prompt(prompt_set.template.format(**row).strip(), prompt_set.name))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise refuse(
                f"{where}:{number}",
                "row",
                found=f"{sorted(row)} ({type(error).__name__}: {error})",
                expected=f"the fields of the template {prompt_set.template!r}"
                + (f", or turns of text in {prompt_set.messages}" if prompt_set.messages else ""),
                remedy=f"correct the template of {prompt_set.name}, or the data",
            ) from error
    if prompt_set.besides is not None:
        drawn = set(_drawn(seed, len(found), prompt_set.besides))
        found = [prompt for place, prompt in enumerate(found) if place not in drawn]
    if not found:
        raise refuse(
            where,
            "rows",
            found="none that the file asks for",
            expected="at least one prompt",
            remedy=f"check first, last, besides and split of {prompt_set.name}",
        )
    if prompt_set.limit is not None:
        found = [found[place] for place in _drawn(seed, len(found), prompt_set.limit)]
    return [prompt for prompt in found for _ in range(prompt_set.times)]


def _conversation(messages: Any, source: str) -> Prompt:
    """Up to the user's last turn; what the assistant said to it is for the model to say.

    Raises:
        KeyError, TypeError, ValueError: no such conversation.
    """
    turns = [(turn["role"], turn["content"]) for turn in messages]
    if not all(isinstance(word, str) for turn in turns for word in turn):
        raise TypeError("a role or content that is no text")
    asked = [place for place, (role, _) in enumerate(turns) if role == "user"]
    if not asked:
        raise ValueError("no turn of a user")
    return Prompt(turns[asked[-1]][1].strip(), source, tuple(turns[: asked[-1]]))


def _drawn(seed: int, rows: int, limit: int) -> list[int]:
    """The places of `limit` of `rows` rows, in the order drawn; of all where they are no more."""
    places = range(rows)
    return random.Random(seed).sample(places, limit) if limit < rows else list(places)


def openings(config: SelfWritten, tokenizer: Any) -> list[dict[str, Any]]:
    """An empty user's turn under each system message, in the form that `sample` reads; without
    any, the beginning of a text.

    Raises:
        LMTPError: the tokenizer has no chat template.
    """
    if not config.systems:
        return [{"prompt": "", "source": SELF_WRITTEN, "tokens": begin_text(tokenizer)}]
    return [
        {"prompt": system, "source": SELF_WRITTEN, "tokens": ids}
        for system in config.systems
        for ids in [_encode(tokenizer, _around_user(tokenizer, system)[0])]
    ]


def end_of_turn(tokenizer: Any) -> int:
    """The token with which a user's turn ends: the first one that the template puts after it, or
    with which it asks for an answer.

    Raises:
        LMTPError: the tokenizer has no chat template, or one that puts nothing there.
    """
    for asks in (False, True):
        if after := _encode(tokenizer, _around_user(tokenizer, "", asks)[1]):
            return int(after[0])
    raise refuse(
        "tokenizer",
        "chat_template",
        found="nothing after a user's words",
        expected="a token that ends a user's turn",
        remedy="give prompts, and leave self_written out",
    )


def begin_text(tokenizer: Any) -> list[int]:
    """The token that a text begins with: BOS, or where a model has none what ends the one before.

    Raises:
        LMTPError: the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [int(token)]
    raise refuse(
        "tokenizer",
        "bos_token, eos_token",
        found="neither",
        expected="a token that a text can begin with",
        remedy="give prompts, and leave out texts that begin from nothing",
    )


def written_prompts(
    records: Sequence[Mapping[str, Any]], whole: bool
) -> tuple[list[Prompt], dict[str, int]]:
    """Prompts out of what the model wrote, and counts of those dropped.

    Args:
        whole: whether they are user's turns, to be ended, or openings, to be gone on with.
    """
    counts = {"read": len(records), "unended": 0, "loops": 0, "short": 0, "duplicates": 0}
    seen: set[str] = set()
    kept = []
    from vllm_lmtp.training.data.corpus import loops

    for record in records:
        text = str(record["text"])
        if whole and not record["ended"]:
            counts["unended"] += 1
        elif loops(text):
            counts["loops"] += 1
        elif len(text.split()) < 3:
            counts["short"] += 1
        elif text.lower() in seen:
            counts["duplicates"] += 1
        else:
            seen.add(text.lower())
            kept.append(Prompt(text, SELF_WRITTEN))
    counts["kept"] = len(kept)
    return kept, counts


def encode(prompt: Prompt, tokenizer: Any, chat: bool) -> list[int]:
    """Token ids of a prompt, as a user's turn when `chat`, else as it stands."""
    if not prompt.text:
        return begin_text(tokenizer)
    if not chat:
        return list(tokenizer.encode(prompt.text))
    turns = [{"role": role, "content": content} for role, content in prompt.before]
    turns.append({"role": "user", "content": prompt.text})
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except (ValueError, TypeError, TemplateError) as error:
        raise refuse(
            f"a prompt of {prompt.source}",
            "messages",
            found=f"roles {', '.join(turn['role'] for turn in turns)} ({error})",
            expected="turns that the model's chat template takes",
            remedy="leave such conversations out",
        ) from error
    return _encode(tokenizer, text)


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text that holds its special tokens already."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def _around_user(tokenizer: Any, system: str, asks: bool = False) -> tuple[str, str]:
    """What a chat template puts before and after the words of a first user's turn; asks: for an
    answer, too."""
    turns = [{"role": "user", "content": _MARK}]
    if system:
        turns.insert(0, {"role": "system", "content": system})
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks)
    except (ValueError, TypeError, TemplateError) as error:
        raise refuse(
            "tokenizer",
            "chat_template",
            found=str(error).splitlines()[0],
            expected="a chat template, as `chat: true` and `self_written` need",
            remedy="set chat to false and leave self_written out, or use a chat model",
        ) from error
    before, _, after = text.partition(_MARK)
    return before, after


def file_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, one JSON object a line.

    Raises:
        LMTPError: a line is something else.
    """
    for number, line in numbered_lines(file):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise refuse(
                f"{file}:{number}",
                "line",
                found=repr(line[:60]),
                expected="a JSON object",
                remedy="restore the file",
            )
        yield row


def _hub_rows(prompt_set: PromptSet, data: Path | None) -> Iterator[dict[str, Any]]:
    try:
        from datasets import load_dataset

        rows = load_dataset(prompt_set.dataset, prompt_set.subset, split=prompt_set.split)
    except Exception as error:  # whatever the hub, the network or the builder says
        raise refuse(
            prompt_set.dataset,
            "dataset",
            found=f"it cannot be loaded ({str(error).splitlines()[0]})",
            expected="a data set of the Hugging Face hub, or a local copy",
            remedy=f"put {prompt_set.name}.jsonl into a folder and give it with --data"
            + (f" (there is none in {data})" if data is not None else ""),
        ) from error
    yield from (dict(row) for row in rows)
