"""Prompts out of data sets and chat templates, and which answers are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_lmtp.errors import LMTPError
from vllm_lmtp.training.distillation.answers import keep_answers
from vllm_lmtp.training.distillation.prompts import (
    SELF_WRITTEN,
    Prompt,
    begin_text,
    encode,
    end_of_turn,
    openings,
    read_prompts,
    written_prompts,
)
from vllm_lmtp.training.settings.distill import DistillRun, PromptSet, SelfWritten
from vllm_lmtp.training.settings.parse import parse


class Words:
    """A tokenizer of whole words, with a chat template of four marks."""

    bos_token_id = 7
    eos_token_id = None

    def __init__(self, template: bool = True) -> None:
        self.template, self.ids = template, {}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [self.ids.setdefault(word, 100 + len(self.ids)) for word in text.split()]
        return [self.bos_token_id, *ids] if add_special_tokens else ids

    def apply_chat_template(
        self, turns: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool = False
    ) -> str:
        if not self.template:
            raise ValueError("this tokenizer has no chat template")
        assert not tokenize
        text = " ".join(f"<{turn['role']}> {turn['content']} <end>" for turn in turns)
        return text + (" <assistant>" if add_generation_prompt else "")


def _data(folder: Path, rows: list[Any], name: str = "set") -> Path:
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_rows_become_prompts_by_a_template(tmp_path: Path) -> None:
    rows = [{"n": i, "ask": f"what is {i}?", "parts": [{"input": "  "}]} for i in range(5)]
    prompt_set = PromptSet(
        "set", "nobody/set", "{ask}\n{parts[0][input]}", number="n", first=1, last=3, times=2
    )
    prompts = read_prompts(prompt_set, _data(tmp_path, rows), seed=0)
    assert prompts == [Prompt(f"what is {i}?", "set") for i in (1, 1, 2, 2, 3, 3)]


def test_a_limit_draws_the_same_rows_for_the_same_seed(tmp_path: Path) -> None:
    data = _data(tmp_path, [{"ask": str(i)} for i in range(50)])
    prompt_set = PromptSet("set", "nobody/set", "{ask}", limit=7)
    drawn = read_prompts(prompt_set, data, seed=1)
    assert len(drawn) == 7
    assert drawn == read_prompts(prompt_set, data, seed=1) != read_prompts(prompt_set, data, seed=2)


def test_besides_leaves_out_what_a_limit_drew(tmp_path: Path) -> None:
    data = _data(tmp_path, [{"ask": str(i)} for i in range(50)])
    drawn = read_prompts(PromptSet("set", "nobody/set", "{ask}", limit=40), data, seed=1)
    rest = read_prompts(PromptSet("set", "nobody/set", "{ask}", besides=40), data, seed=1)
    assert sorted(int(p.text) for p in drawn + rest) == list(range(50))
    few = PromptSet("set", "nobody/set", "{ask}", besides=40, limit=3)
    assert len(found := read_prompts(few, data, seed=1)) == 3
    assert {p.text for p in found} < {p.text for p in rest}
    with pytest.raises(LMTPError, match="at least one prompt"):
        read_prompts(PromptSet("set", "nobody/set", "{ask}", besides=50), data, seed=1)


def test_bad_data_is_named(tmp_path: Path) -> None:
    prompt_set = PromptSet("set", "nobody/set", "{ask}", number="n", first=4, last=9)
    for rows, words in (
        ([{"n": 5, "ask": "a"}, {"n": 5}], [":2: row", "'ask'", "the template"]),
        ([{"n": "five", "ask": "a"}], [":1: row", "ValueError"]),
        ([["ask"]], [":1: line", "a JSON object"]),
        ([{"n": 1, "ask": "a"}], ["rows", "at least one prompt"]),
    ):
        with pytest.raises(LMTPError) as error:
            read_prompts(prompt_set, _data(tmp_path, rows), seed=0)
        for word in [str(tmp_path / "set.jsonl"), "Remedy", *words]:
            assert word in str(error.value)


def test_prompts_as_a_users_turn_as_they_stand_and_from_nothing() -> None:
    words = Words()
    turn = encode(Prompt("hi there", "set"), words, chat=True)
    assert turn == words.encode("<user> hi there <end> <assistant>", add_special_tokens=False)
    assert encode(Prompt("hi there", "set"), words, chat=False) == words.encode("hi there")
    assert encode(Prompt("", "nothing"), words, chat=False) == [words.bos_token_id]


def test_an_empty_users_turn_is_continued_until_the_turn_ends() -> None:
    words = Words()
    config = SelfWritten(systems=("be brief", "be kind"), count=2, max_tokens=9, seed=0)
    rows = openings(config, words)
    assert [row["prompt"] for row in rows] == ["be brief", "be kind"]
    start = words.encode("<system> be kind <end> <user>", add_special_tokens=False)
    assert rows[1]["tokens"] == start
    assert [end_of_turn(words)] == words.encode("<end>", add_special_tokens=False)
    with pytest.raises(LMTPError, match="chat_template"):
        openings(config, Words(template=False))


class NoEnds(Words):
    """Its template puts nothing after a turn."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark

    def apply_chat_template(
        self, turns: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool = False
    ) -> str:
        text = "".join(f"<{turn['role']}> {turn['content']}" for turn in turns)
        return text + (self.mark if add_generation_prompt else "")


def test_a_turn_may_end_where_the_answer_is_asked_for() -> None:
    words = NoEnds(" <assistant> ")
    assert [end_of_turn(words)] == words.encode("<assistant>", add_special_tokens=False)
    with pytest.raises(LMTPError, match="chat_template"):
        end_of_turn(NoEnds(""))


def test_a_text_is_begun_from_nothing_and_gone_on_with() -> None:
    words = Words()
    config = SelfWritten(count=2, max_tokens=9, seed=0)
    (row,) = openings(config, words)
    assert row["tokens"] == begin_text(words) == [words.bos_token_id]
    records = [{"text": t, "ended": False} for t in ("Once there was", "Once there was", "No")]
    prompts, counts = written_prompts(records, whole=False)
    assert prompts == [Prompt("Once there was", SELF_WRITTEN)]
    assert (counts["unended"], counts["duplicates"], counts["short"]) == (0, 1, 1)


def test_a_conversation_is_answered_at_the_users_last_turn(tmp_path: Path) -> None:
    turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    messages = [{"role": role, "content": content} for role, content in turns]
    data = _data(tmp_path, [{"messages": messages}, {"prompt": "five"}])
    found = read_prompts(PromptSet("set", "nobody/set", messages="messages"), data, seed=0)
    assert found == [Prompt("three", "set", tuple(turns[:2])), Prompt("five", "set")]
    words = Words()
    turn = "<user> one <end> <assistant> two <end> <user> three <end> <assistant>"
    assert encode(found[0], words, chat=True) == words.encode(turn, add_special_tokens=False)
    data = _data(tmp_path, [{"messages": messages[1:2]}])
    with pytest.raises(LMTPError, match="no turn of a user"):
        read_prompts(PromptSet("set", "nobody/set", messages="messages"), data, seed=0)


def test_what_the_model_asked_itself_is_sifted() -> None:
    texts = [
        "What is a cat?",
        "what IS a cat?",
        "Why?",
        "go on and " * 30,
        "An unended question is",
    ]
    records = [{"text": t, "ended": not t.startswith("An unended")} for t in texts]
    prompts, counts = written_prompts(records, whole=True)
    assert prompts == [Prompt("What is a cat?", SELF_WRITTEN)]
    assert counts == {"read": 5, "unended": 1, "loops": 1, "short": 1, "duplicates": 1, "kept": 1}


def test_answers_that_teach_nothing_are_dropped_and_counted(tmp_path: Path) -> None:
    def line(answer: list[int], ended: bool = True) -> str:
        tokens = [1, 2, *answer]
        record = {"text": "x", "ended": ended, "tokens": tokens, "prompt_tokens": 2, "source": "s"}
        return json.dumps(record)

    good, cut = list(range(30)), list(range(50, 90))
    lines = [line(good), line(good), line([5, 6]), line([*good, *[9] * 40]), line(cut, ended=False)]
    (tmp_path / "shard-000.jsonl").write_text("\n".join(lines))
    shards = [tmp_path / "shard-000.jsonl"]
    kept, counts = keep_answers(shards, 8, keep_unended=True)
    assert [(r["shard"], r["number"]) for r in kept] == [("shard-000", 0), ("shard-000", 4)]
    assert counts == {
        "read": 5,
        "loops": 1,
        "short": 1,
        "unended": 0,
        "duplicates": 1,
        "kept": 2,
        "kept_answer_tokens": 70,
        "kept_by_source": {"s": 2},
        "kept_unended": 1,
    }
    assert len(keep_answers(shards, 8, keep_unended=False)[0]) == 1
    with pytest.raises(LMTPError, match="none kept of 5"):
        keep_answers(shards, 100, keep_unended=True)


ANSWERS = {"temperatures": [1.0], "shards": 1, "texts_per_shard": 1, "max_tokens": 1, "seed": 0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "prompts"),
        ({"from_nothing": 2, "chat": True}, "from_nothing"),
        (
            {"self_written": {"systems": ["x"], "count": 1, "max_tokens": 1, "seed": 0}},
            "no systems",
        ),
        ({"chat": True, "self_written": {"count": 1, "max_tokens": 1, "seed": 0}}, "systems where"),
        ({"self_written": {"systems": ["x"], "count": 1, "max_tokens": 1}}, "self_written.seed"),
        ({"from_nothing": 1, "answers": {**ANSWERS, "prompts": "mine.jsonl"}}, "answers"),
        ({"prompts": [{"name": "a", "dataset": "b", "template": "c", "times": 0}]}, "times"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(changes: dict[str, Any], words: str) -> None:
    values = {"run": "distill", "output": "o", "seed": 0, "chat": False, "answers": ANSWERS}
    with pytest.raises(LMTPError, match=words):
        parse(DistillRun, values | changes, "file.yaml")
