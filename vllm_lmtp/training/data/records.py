"""A distilled data set read back for training: records, the held-out ones, and training rows.

The folder is the one that `vllm-lmtp distill` writes. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vllm_lmtp.errors import refuse

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
COLUMNS = ("tokens", "prompt_tokens", "source", "temperature")
_REMEDY = "give the `dataset` folder of a finished vllm-lmtp distill"


@dataclass(frozen=True)
class Record:
    """One answered prompt.

    tokens: ids of prompt and answer, without the token that ended the answer. prompt_tokens: how
    many of them are the prompt's. source: the set the prompt is from. temperature: of the answer.
    ended: whether the model ended the answer itself, so that its end may be learnt. end_token: with
    which token, where that is known.
    """

    tokens: list[int]
    prompt_tokens: int
    source: str
    temperature: float
    ended: bool = False
    end_token: int | None = None

    @property
    def prompt(self) -> tuple[int, ...]:
        """The prompt's tokens."""
        return tuple(self.tokens[: self.prompt_tokens])


@dataclass(frozen=True)
class Row:
    """One training row: token ids, of which the first `prompt_tokens` are no labels."""

    tokens: list[int]
    prompt_tokens: int = 0


def read_dataset(folder: Path, field: str) -> list[Record]:
    """The records of a folder that has answers, in its order.

    Args:
        field: of the training file that names the folder; errors speak of it.

    Raises:
        LMTPError: no such data set, columns that are missing or of another type, or no answers.
    """
    data = load_dataset_folder(folder, field)
    missing = [name for name in COLUMNS if name not in data.column_names]
    if missing:
        raise refuse(
            str(folder),
            ", ".join(missing),
            found=f"columns {', '.join(data.column_names) or 'none'}",
            expected=f"{', '.join(COLUMNS)}, as {field} needs",
            remedy=_REMEDY,
        )
    records = [_record(folder, number, row) for number, row in enumerate(data)]
    answered = [r for r in records if len(r.tokens) > r.prompt_tokens]
    if not answered:
        raise refuse(
            str(folder),
            "answers",
            found=f"none in {len(records)} record(s)",
            expected="tokens that go on after the first prompt_tokens",
            remedy="distill again: heads learn from the target's answers",
        )
    return answered


def split_held_out(
    records: Sequence[T], held_out: int, prompt_of: Callable[[T], Sequence[int]] = lambda _: ()
) -> tuple[list[T], list[T]]:
    """(training, held-out) records, each in order; the held-out ones lie evenly over all.

    Answers to one prompt are alike, so they are all on one side: about `held_out` are held out
    where prompts were asked more than once.

    Args:
        prompt_of: a record's prompt. Of at most one token it is none: the text began from nothing.

    Raises:
        LMTPError: nothing would be left to train on.
    """
    places: dict[object, list[int]] = {}
    for place, record in enumerate(records):
        prompt = tuple(prompt_of(record))
        places.setdefault(prompt if len(prompt) > 1 else place, []).append(place)
    count = 0 if held_out < 1 else max(1, round(held_out * len(places) / len(records)))
    if not 0 < held_out < len(records) or count >= len(places):
        raise refuse(
            "training file",
            "held_out",
            found=held_out,
            expected=f"from 1 to {len(records) - 1}, as {len(records)} texts were kept, which "
            f"answer {len(places)} prompts",
            remedy="hold out fewer texts, or sample more",
        )
    groups = list(places.values())
    chosen = {place for i in range(count) for place in groups[i * len(groups) // count]}
    train = [r for i, r in enumerate(records) if i not in chosen]
    return train, [r for i, r in enumerate(records) if i in chosen]


def answer_rows(
    records: Sequence[Record], end: int | None, row_tokens: int, offset: int, where: str
) -> list[Row]:
    """Training rows of at most `row_tokens` tokens that teach every head something.

    Args:
        end: the token that ends an answer, added where the model ended it and the record does not
            say with which; None adds none.
        offset: the largest offset a head predicts. A row teaches that head only if a token of the
            answer lies that far behind the row's first; shorter rows are left out.
        where: what the records came from, for the error.

    Raises:
        LMTPError: no row is long enough.
    """
    rows = []
    for record in records:
        last = end if record.end_token is None else record.end_token
        ending = [last] if record.ended and last is not None else []
        row = Row([*record.tokens, *ending][:row_tokens], record.prompt_tokens)
        if len(row.tokens) > max(offset, row.prompt_tokens):
            rows.append(row)
    if not rows:
        longest = max((len(r.tokens) for r in records), default=0)
        raise refuse(
            where,
            "texts",
            found=f"none of {len(records)} fits: the longest has {longest} tokens, rows are cut "
            f"at {row_tokens}",
            expected=f"texts of more than {offset} tokens, the largest offset, with a part of the "
            "answer in the row",
            remedy="give longer texts, raise row_tokens, or train fewer heads or a smaller stride",
        )
    return rows


def pad_rows(rows: Sequence[Row], pad_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to the longest of them.

    Returns:
        input_ids int64 [B, T] and labels int64 [B, T], equal but for IGNORE at prompts and
        padding. With causal attention nothing sees the padding, so there is no attention mask.
    """
    import torch

    from vllm_lmtp.training.data.rows import IGNORE

    width = max(len(row.tokens) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORE)
    for place, row in enumerate(rows):
        tokens = torch.tensor(row.tokens, dtype=torch.int64)
        ids[place, : len(tokens)] = tokens
        labels[place, row.prompt_tokens : len(tokens)] = tokens[row.prompt_tokens :]
    return {"input_ids": ids, "labels": labels}


def load_dataset_folder(folder: Path, field: str) -> Any:
    """The `datasets.Dataset` of a folder.

    Raises:
        LMTPError: it is none.
    """
    from datasets import Dataset, load_from_disk

    try:
        data = load_from_disk(str(folder))
        found = type(data).__name__
    except Exception as error:  # whatever pyarrow, json or the file system says
        data, found = None, (str(error).splitlines() or [type(error).__name__])[0]
    if not isinstance(data, Dataset):
        raise refuse(
            str(folder), field, found=found, expected="a `datasets` folder", remedy=_REMEDY
        )
    return data


def _record(folder: Path, number: int, row: dict[str, Any]) -> Record:
    try:
        tokens, prompt_tokens = [int(t) for t in row["tokens"]], int(row["prompt_tokens"])
        if prompt_tokens >= 0 and all(t >= 0 for t in tokens):
            source, temperature = str(row["source"]), float(row["temperature"])
            ended, end = bool(row.get("ended", False)), row.get("end_token")
            end = None if end is None else int(end)
            return Record(tokens, prompt_tokens, source, temperature, ended, end)
    except (TypeError, ValueError):
        pass
    raise refuse(
        f"{folder}, record {number}",
        "tokens, prompt_tokens, temperature",
        found=repr({name: row[name] for name in COLUMNS})[:80],
        expected="a list of token ids, and two numbers",
        remedy=_REMEDY,
    )
