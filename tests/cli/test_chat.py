"""The chat: both ways asked the same, remembered as far as there is room, and ended by the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.command import vllm_lmtp
from tests.support.random_models import EMBEDDED
from vllm_lmtp.cli import main
from vllm_lmtp.cli.demo.chat import chat
from vllm_lmtp.eval.engines.engine import ACCEPTED_TOKENS, DRAFTS, Run


class Words:
    """A tokenizer of whole words, with the simplest chat template."""

    def apply_chat_template(self, turns: Any, **_: Any) -> str:
        return " ".join(f"{turn['role']}: {turn['content']}" for turn in turns) + " assistant:"

    def encode(self, text: str, add_special_tokens: bool) -> list[str]:
        assert not add_special_tokens
        return text.split()


def typed(*lines: str | BaseException) -> Callable[[str], str]:
    """What the user types, line by line; then the end of input."""
    left: Iterator[str | BaseException] = iter((*lines, EOFError()))

    def read(_: str) -> str:
        line = next(left)
        if isinstance(line, BaseException):
            raise line
        return line

    return read


class Both:
    """Stands for the engines: answers with a count and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prompt: Any) -> tuple[Run, Run]:
        self.asked.append(" ".join(prompt))
        text = f"answer-{len(self.asked)}"
        counters = Counter({DRAFTS: 4, ACCEPTED_TOKENS: 6})
        return (
            Run([[1] * 10], [text], seconds=2.0),
            Run([[1] * 10], [text], seconds=1.0, counters=counters),
        )


def talk(read: Callable[[str], str], room: int = 100) -> tuple[int, list[str], str]:
    both, said = Both(), []
    count = chat(Words(), both, room, read, said.append)
    return count, both.asked, "\n".join(said)


def test_each_line_is_answered_both_ways_with_what_it_took() -> None:
    count, asked, said = talk(typed("hello", "  ", "and now"))
    assert count == 2
    assert asked == [
        "user: hello assistant:",
        "user: hello assistant: answer-1 user: and now assistant:",
    ]
    assert "plain> answer-1\n  [10 tokens, 5.0 tokens/s]" in said
    assert "L-MTP> answer-1\n  [10 tokens, 10.0 tokens/s, acceptance length 2.50]" in said


def test_the_oldest_turns_are_forgotten_when_there_is_no_room() -> None:
    _, asked, _ = talk(typed("one", "two", "three"), room=8)
    assert asked[1:] == [
        "user: one assistant: answer-1 user: two assistant:",
        "user: two assistant: answer-2 user: three assistant:",
    ]


def test_a_line_that_is_too_long_is_not_sent_and_changes_nothing() -> None:
    count, asked, said = talk(typed("one", "much " * 20, "two"), room=12)
    assert count == 2
    assert "too long" in said
    assert asked[1] == "user: one assistant: answer-1 user: two assistant:"


@pytest.mark.parametrize("end", [EOFError(), KeyboardInterrupt()])
def test_it_ends_when_the_user_wants(end: BaseException) -> None:
    assert talk(typed("hello", end))[0] == 1


def test_an_interrupted_answer_ends_it_too() -> None:
    def interrupted(_: Any) -> tuple[Run, Run]:
        raise KeyboardInterrupt

    assert chat(Words(), interrupted, 100, typed("hello"), lambda _: None) == 0


def test_a_model_that_does_not_chat_is_refused(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.setenv(name, "1")  # the demo sets them for its process
    assert main(["demo", "--chat", "--model", str(EMBEDDED)]) == 2
    assert "chat_template" in capfd.readouterr().err


def test_a_chat_is_no_json() -> None:
    done = vllm_lmtp("demo", "--chat", "--json")
    assert done.code == 2
    assert "--json" in done.stderr
