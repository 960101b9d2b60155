"""The prompt sets that results are stated on: each by its name, version and public data set.

Rows are never part of this repository. They are read from a local copy (`--path`) or, where the
network allows, with the package `datasets`. Of a conversation of several turns the first alone is
asked: later turns would hold the answers of whichever model wrote them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.checkpoints.openings import OPENINGS
from vllm_lmtp.checkpoints.questions import QUESTIONS
from vllm_lmtp.errors import refuse
from vllm_lmtp.training.distillation.prompts import file_rows

Row = Mapping[str, Any]
OWN_FILE = "own file"
# Spec-Bench's own columns. What its question file calls by MT-bench's categories is its first.
MULTI_TURN = "Multi-turn Conversation"
SPEC_BENCH_GROUPS = {
    "translation": "Translation",
    "summarization": "Summarization",
    "qa": "Question Answering",
    "math_reasoning": "Mathematical Reasoning",
    "rag": "Retrieval-aug. Generation",
}
MBPP_TEST = range(11, 511)


@dataclass(frozen=True)
class EvalPrompt:
    """One prompt. text: the words, or None where `tokens` are given instead. group: the column of
    the results that it counts in. number: its row in the set, from 0."""

    text: str | None
    group: str
    number: int
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PromptSet:
    """A public set of prompts.

    name: as `--set` takes it. version: the state of the data that `rows` was counted on. dataset:
    public id. subset, split, data_file: arguments of `datasets.load_dataset`. file: name of a local
    copy. rows: how many prompts the whole set has. words: what becomes of a row, in words.
    prompt: the row's prompt. group: the row's group. wanted: whether a row belongs to the set.
    prepared: the script that makes the local copy, where the public rows are not yet prompts.
    """

    name: str
    version: str
    dataset: str
    file: str
    rows: int | None
    words: str
    prompt: Callable[[Row], str]
    group: Callable[[Row], str]
    subset: str | None = None
    split: str = "test"
    data_file: str | None = None
    wanted: Callable[[Row], bool] = lambda row: True
    prepared: str | None = None


@dataclass(frozen=True)
class Loaded:
    """The prompts of a run. facts: what a report says about where they came from."""

    prompts: tuple[EvalPrompt, ...]
    facts: dict[str, Any]


def _first_turn(row: Row) -> str:
    """`turns` in the authors' files, `prompt` in the copy on the hub."""
    turns = row["turns"] if "turns" in row else row["prompt"]
    if not isinstance(turns, list) or not turns:
        raise TypeError("no list of turns")
    return str(turns[0])


def _first_message(row: Row) -> str:
    """Of a conversation whose placeholders were filled by the set's own script."""
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise TypeError("no list of messages")
    return str(messages[0]["content"])


def _speed_bench(subset: str) -> PromptSet:
    """SPEED-Bench as its `prepare.py` writes it, which vLLM's own benchmark reads too."""
    return PromptSet(
        name=f"speed_bench_{subset}",
        version="nvidia/SPEED-Bench, as prepared",
        dataset="nvidia/SPEED-Bench",
        subset=subset,
        file=f"{subset}.jsonl",
        rows=None,
        words="the content of the first message; groups are the set's categories",
        prompt=_first_message,
        group=lambda row: str(row["category"]),
        prepared="nemo_skills/dataset/speed-bench/prepare.py of github.com/NVIDIA-NeMo/Skills",
    )


SPEED_BENCH = ("qualitative", *(f"throughput_{n}k" for n in (1, 2, 8, 16, 32)))

SETS = {
    s.name: s
    for s in (
        PromptSet(
            name="gsm8k_test",
            version="openai/grade-school-math 3101c7d5",
            dataset="openai/gsm8k",
            subset="main",
            file="gsm8k_test.jsonl",
            rows=1319,
            words="`question`, without space around it",
            prompt=lambda row: str(row["question"]),
            group=lambda row: "GSM8K",
        ),
        PromptSet(
            name="mt_bench",
            version="lm-sys/FastChat 0e6d3e4b",
            dataset="HuggingFaceH4/mt_bench_prompts",
            split="train",
            file="mt_bench_question.jsonl",
            rows=80,
            words="the first turn; groups are the set's eight categories",
            prompt=_first_turn,
            group=lambda row: str(row["category"]),
        ),
        PromptSet(
            name="spec_bench",
            version="hemingkx/Spec-Bench fd2c1cd7",
            dataset="json",
            data_file="https://raw.githubusercontent.com/hemingkx/Spec-Bench/main/data/spec_bench/"
            "question.jsonl",
            split="train",
            file="spec_bench_question.jsonl",
            rows=480,
            words="the first turn; groups are the set's six columns, MT-bench's categories being "
            "its multi-turn conversation",
            prompt=_first_turn,
            group=lambda row: SPEC_BENCH_GROUPS.get(str(row["category"]), MULTI_TURN),
        ),
        PromptSet(
            name="humaneval",
            version="openai/human-eval, 164 problems",
            dataset="openai/openai_humaneval",
            file="humaneval.jsonl",
            rows=164,
            words="`prompt`, the head of a function, without space around it",
            prompt=lambda row: str(row["prompt"]),
            group=lambda row: "HumanEval",
        ),
        PromptSet(
            name="mbpp_test",
            version="google-research MBPP, test rows 11-510",
            dataset="google-research-datasets/mbpp",
            subset="full",
            file="mbpp.jsonl",
            rows=500,
            words="`text`, without space around it",
            prompt=lambda row: str(row["text"]),
            group=lambda row: "MBPP",
            wanted=lambda row: int(row["task_id"]) in MBPP_TEST,
        ),
        *map(_speed_bench, SPEED_BENCH),
    )
}
OWN = {"stories": OPENINGS, "questions": QUESTIONS}
"""This package's own: openings of stories, and what people ask a chat model."""


def load_set(name: str, folder: Path | None = None, limit: int | None = None) -> Loaded:
    """The prompts of a set.

    Args:
        name: a key of SETS or OWN, or the path of a JSONL file whose rows hold "prompt" (a text) or
            "tokens" (ids), and maybe "group".
        folder: holds local copies, named as in SETS.
        limit: prompts of each group, evenly spread over it; None for all.

    Raises:
        LMTPError: no such set, the data cannot be had, or a row is not one of the set.
    """
    if name in OWN:
        prompts = [EvalPrompt(text, name, i) for i, text in enumerate(OWN[name])]
        facts = {
            "version": "this package's own",
            "rows": len(prompts),
            "prompt": "without space around it",
        }
        return _loaded(prompts, {"name": name, **facts}, limit)
    if name in SETS:
        chosen = SETS[name]
        rows, where, origin = _rows(chosen, folder)
        prompts = list(_prompts(rows, where, chosen.prompt, chosen.group, chosen.wanted))
        facts = {
            "version": chosen.version,
            "dataset": chosen.data_file or chosen.dataset,
            "read_from": origin,
            "rows": chosen.rows,
            "prompt": chosen.words,
        }
        return _loaded(prompts, {"name": name, **facts}, limit)
    if Path(name).is_file():
        facts = {"version": OWN_FILE, "rows": None, "prompt": "`prompt` or `tokens`"}
        return _loaded(list(_own(Path(name))), {"name": Path(name).name, **facts}, limit)
    raise refuse(
        "--set",
        "name",
        found=repr(name),
        expected=f"{', '.join([*OWN, *SETS])}, or a JSONL file",
        remedy="name one of these",
    )


def spread(total: int, limit: int | None) -> list[int]:
    """`limit` of the indices 0..total-1, evenly spread; all of them where there are no more."""
    if limit is None or limit >= total:
        return list(range(total))
    return [i * total // limit for i in range(limit)]


def _loaded(prompts: Sequence[EvalPrompt], facts: dict[str, Any], limit: int | None) -> Loaded:
    if not prompts:
        raise refuse(
            str(facts["name"]),
            "rows",
            found="none",
            expected="at least one prompt",
            remedy="check the file",
        )
    groups: dict[str, list[EvalPrompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.group, []).append(prompt)
    kept = [members[i] for members in groups.values() for i in spread(len(members), limit)]
    kept.sort(key=lambda prompt: prompt.number)
    digest = hashlib.sha256()
    for prompt in kept:
        words = prompt.text if prompt.text is not None else " ".join(map(str, prompt.tokens or ()))
        digest.update(words.encode() + b"\0")
    counts = Counter(prompt.group for prompt in kept)
    return Loaded(
        tuple(kept),
        facts
        | {
            "found": len(prompts),
            "limit": limit,
            "used": len(kept),
            "groups": {group: counts[group] for group in groups},
            "sha256_of_prompts": digest.hexdigest(),
        },
    )


def _rows(chosen: PromptSet, folder: Path | None) -> tuple[Iterator[dict[str, Any]], str, str]:
    """The rows of a public set, where they lie, and that place as a report may state it."""
    file = None if folder is None else folder / chosen.file
    if file is not None and file.is_file():
        return file_rows(file), str(file), f"a local copy, {chosen.file}"
    if chosen.prepared is not None:
        raise refuse(
            chosen.name,
            "--path",
            found="no folder" if folder is None else f"no {chosen.file} in {folder}",
            expected=f"a folder with {chosen.file}, as {chosen.prepared} writes it",
            remedy="run that script, and give its folder as --path",
        )
    try:
        from datasets import load_dataset

        files = {} if chosen.data_file is None else {"data_files": chosen.data_file}
        rows = load_dataset(chosen.dataset, chosen.subset, split=chosen.split, **files)
    except Exception as error:  # whatever the hub, the network or the builder says
        raise refuse(
            chosen.data_file or chosen.dataset,
            "dataset",
            found=f"it cannot be loaded ({(str(error) or repr(error)).splitlines()[0]})",
            expected="a public data set, or a local copy",
            remedy=f"put {chosen.file} into a folder and give that as --path"
            + (f" (there is none in {folder})" if folder is not None else ""),
        ) from error
    return (dict(row) for row in rows), chosen.dataset, "the public data set"


def _prompts(
    rows: Iterator[dict[str, Any]],
    where: str,
    prompt: Callable[[Row], str],
    group: Callable[[Row], str],
    wanted: Callable[[Row], bool],
) -> Iterator[EvalPrompt]:
    for number, row in enumerate(rows):
        try:
            if wanted(row):
                yield EvalPrompt(prompt(row).strip(), group(row), number)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise refuse(
                f"{where}:{number + 1}",
                "row",
                found=f"{sorted(row)} ({type(error).__name__}: {error})",
                expected="a row of this set",
                remedy="restore the file, or take a copy of the public data set",
            ) from error


def _own(file: Path) -> Iterator[EvalPrompt]:
    for number, row in enumerate(file_rows(file)):
        text, tokens = row.get("prompt"), row.get("tokens")
        is_tokens = isinstance(tokens, list) and tokens and all(type(t) is int for t in tokens)
        if not isinstance(text, str) and not is_tokens:
            raise refuse(
                f"{file}:{number + 1}",
                "row",
                found=f"the fields {sorted(row)}",
                expected='"prompt", a text, or "tokens", a list of ids',
                remedy="give each row one of them",
            )
        group = str(row.get("group", file.stem))
        if is_tokens:
            yield EvalPrompt(None, group, number, tuple(tokens or ()))
        else:
            yield EvalPrompt(str(text), group, number)
