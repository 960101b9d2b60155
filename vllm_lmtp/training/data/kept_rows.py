"""Answers with the hidden states that were kept while they were sampled (recorder.py).

One item is one answer: its rows, which begin at the last token of the prompt, and the tokens at
the same positions. Files stay on disk and are read as they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from vllm_lmtp.errors import refuse
from vllm_lmtp.training.distillation.sample import ROWS_SUFFIX


@dataclass(frozen=True)
class Answer:
    """Where one answer's rows are.

    file, begin, end: rows begin..end of that file. tokens: [end - begin + 1], the last token of the
    prompt and the answer, with the token that ended it where one did. source, temperature: as
    sampled. prompt: the tokens before those.
    """

    file: Path
    begin: int
    end: int
    tokens: tuple[int, ...]
    source: str
    temperature: float
    prompt: tuple[int, ...] = ()

    @property
    def asked(self) -> tuple[int, ...]:
        """The whole prompt."""
        return (*self.prompt, self.tokens[0])

    @property
    def answer(self) -> tuple[int, ...]:
        """The answer's tokens alone."""
        return self.tokens[1:]


def read_answers(folder: Path, end_token: int) -> list[Answer]:
    """Every answer of a distilled data set that has rows, in its order.

    Args:
        end_token: what ended an answer where the data set does not tell.

    Raises:
        LMTPError: no data set, or one without rows.
    """
    from vllm_lmtp.training.data.records import load_dataset_folder

    data = load_dataset_folder(folder, "dataset")
    needed = ("tokens", "prompt_tokens", "ended", "shard", "number", "source", "temperature")
    missing = [name for name in needed if name not in data.column_names]
    files = sorted(folder.glob(f"*{ROWS_SUFFIX}"))
    if missing or not files:
        raise refuse(
            str(folder),
            "rows",
            found=f"no column {', '.join(missing)}" if missing else f"no *{ROWS_SUFFIX}",
            expected="the hidden states of the answers",
            remedy="distill with `keep_rows: true`, or train with `run: s1`, which needs none",
        )
    bounds = {file.name.removesuffix(ROWS_SUFFIX): _bounds(file) for file in files}
    answers = []
    ending = ["end_token"] if "end_token" in data.column_names else []
    for row in data.select_columns([*needed, *ending]):
        if row["shard"] not in bounds:
            continue
        ends = bounds[row["shard"]]
        begin, end = ends[row["number"]], ends[row["number"] + 1]
        first = row["prompt_tokens"] - 1
        prompt, tokens = row["tokens"][:first], row["tokens"][first:]
        if row["ended"]:
            stated = row.get("end_token")
            tokens.append(end_token if stated is None else stated)
        if len(tokens) != end - begin + 1:
            raise refuse(
                str(folder),
                f"rows of {row['shard']}, text {row['number']}",
                found=f"{end - begin} rows",
                expected=f"{len(tokens) - 1}, one for each token of the answer",
                remedy="distill again: texts and rows are of different runs",
            )
        file = folder / f"{row['shard']}{ROWS_SUFFIX}"
        answers.append(
            Answer(
                file, begin, end, tuple(tokens), row["source"], row["temperature"], tuple(prompt)
            )
        )
    return answers


def load_rows(answer: Answer) -> Tensor:
    """The rows of an answer, [n, H], in the dtype in which the model computed them."""
    rows: Tensor = _open(answer.file).get_slice("rows")[answer.begin : answer.end]
    return rows


@cache
def _open(file: Path) -> Any:
    handle: Any = safe_open(str(file), framework="pt")
    return handle.__enter__()


def _bounds(file: Path) -> list[int]:
    bounds: list[int] = _open(file).get_tensor("bounds").tolist()
    return bounds
