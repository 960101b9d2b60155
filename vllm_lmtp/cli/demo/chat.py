"""`vllm-lmtp demo --chat`: each line that the user types is answered plainly and with L-MTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vllm_lmtp.checkpoints.subject import chat_prompt
from vllm_lmtp.eval.engines.engine import ACCEPTED_TOKENS, DRAFTS, Run

Answers = Callable[[list[int]], tuple[Run, Run]]
PROMPT = "you> "
# Tokens of a conversation that are remembered.
CONTEXT = 1024


def chat(
    tokenizer: Any,
    answers: Answers,
    room: int,
    read: Callable[[str], str] = input,
    write: Callable[[str], None] = print,
) -> int:
    """Talk until the user ends it, with the end of input (Ctrl-D) or Ctrl-C.

    The conversation goes on from L-MTP's answer, and both are always asked the same.

    Args:
        tokenizer: with a chat template.
        answers: token ids of the conversation -> the runs of plain decoding and of L-MTP.
        room: tokens a conversation may have; beyond, its oldest turns are forgotten.
        read: shows its argument and returns the user's next line. write: prints a line.

    Returns:
        How many lines were answered.
    """
    turns: list[dict[str, str]] = []
    count = 0
    try:
        for line in _lines(read):
            turns.append({"role": "user", "content": line})
            prompt = _fitting(tokenizer, turns, room)
            if prompt is None:
                write(f"(too long: a line may have about {room} tokens here)")
                turns.pop()
                continue
            plain, lmtp = answers(prompt)
            count += 1
            write(_answer("plain", plain))
            write(_answer("L-MTP", lmtp))
            turns.append({"role": "assistant", "content": lmtp.texts[0]})
    except KeyboardInterrupt:
        pass
    write("")
    return count


def _lines(read: Callable[[str], str]) -> Iterator[str]:
    """The user's lines until the end of input; empty ones say nothing."""
    while True:
        try:
            line = read(PROMPT).strip()
        except EOFError:
            return
        if line:
            yield line


def _fitting(tokenizer: Any, turns: list[dict[str, str]], room: int) -> list[int] | None:
    """The prompt of `turns`, from which the oldest pairs are removed until it fits; None, and
    nothing is removed, where not even the last turn does."""
    for start in range(0, len(turns), 2):
        prompt = chat_prompt(tokenizer, turns[start:])
        if len(prompt) <= room:
            del turns[:start]
            return prompt
    return None


def _answer(name: str, run: Run) -> str:
    """One answer, and what it took."""
    facts = [f"{run.num_tokens} tokens", f"{run.num_tokens / run.seconds:.1f} tokens/s"]
    if drafts := run.counters[DRAFTS]:
        length = 1 + run.counters[ACCEPTED_TOKENS] / drafts
        facts.append(f"acceptance length {length:.2f}")
    return f"\n{name}> {run.texts[0].strip()}\n  [{', '.join(facts)}]"
