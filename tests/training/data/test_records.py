"""Reading a distilled data set: what is refused, and which tokens become labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
datasets = pytest.importorskip("datasets")

from vllm_lmtp.errors import LMTPError  # noqa: E402
from vllm_lmtp.training.data.records import (  # noqa: E402
    Record,
    Row,
    answer_rows,
    pad_rows,
    read_dataset,
    split_held_out,
)
from vllm_lmtp.training.data.rows import IGNORE  # noqa: E402


def _row(tokens: list[int], prompt_tokens: int, **more: Any) -> dict[str, Any]:
    values = {"tokens": tokens, "prompt_tokens": prompt_tokens}
    return values | {"source": "set", "temperature": 0.5, "ended": True} | more


def _save(folder: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(folder)
    return folder


def _refused(folder: Path) -> str:
    with pytest.raises(LMTPError) as error:
        read_dataset(folder, "dataset")
    (refusal,) = error.value.refusals
    assert all((refusal.found, refusal.expected, refusal.remedy))
    assert refusal.where.startswith(str(folder))
    return f"{refusal.field}: {refusal.found}"


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [_row([1, 2, 3], 2), _row([4, 5], 0, ended=False), _row([6, 7], 2)]
    assert read_dataset(_save(tmp_path / "d", rows), "dataset") == [
        Record([1, 2, 3], 2, "set", 0.5, ended=True),
        Record([4, 5], 0, "set", 0.5, ended=False),
    ]


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert _refused(tmp_path / "absent").startswith("dataset: ")
    assert _refused(tmp_path / "empty").startswith("dataset: ")
    parts = datasets.DatasetDict({"train": datasets.Dataset.from_list([_row([1, 2], 1)])})
    parts.save_to_disk(tmp_path / "parts")
    assert _refused(tmp_path / "parts") == "dataset: DatasetDict"


def test_a_dataset_without_answers_is_refused(tmp_path: Path) -> None:
    bare = _save(tmp_path / "bare", [{"text": "no answers here", "source": "set"}])
    found = _refused(bare)
    assert found.startswith("tokens, prompt_tokens, temperature: columns text, source")
    prompts = _save(tmp_path / "prompts", [_row([1, 2, 3], 3), _row([1], 5)])
    assert _refused(prompts) == "answers: none in 2 record(s)"
    assert "record 0" in str(_error(_save(tmp_path / "words", [_row(["a"], 0)])))
    assert "-1" in str(_error(_save(tmp_path / "signed", [_row([1, -1], 0)])))


def _error(folder: Path) -> LMTPError:
    with pytest.raises(LMTPError) as error:
        read_dataset(folder, "dataset")
    return error.value


def test_held_out_records_lie_evenly() -> None:
    train, held = split_held_out(range(10), 2)
    assert held == [0, 5]
    assert train == [1, 2, 3, 4, 6, 7, 8, 9]
    for wrong in (0, 10):
        with pytest.raises(LMTPError, match="held_out"):
            split_held_out(range(10), wrong)


def test_answers_to_one_prompt_are_all_on_one_side() -> None:
    answers = [(prompt, number) for number in range(3) for prompt in range(10)]
    train, held = split_held_out(answers, 6, lambda answer: (answer[0], 7))
    assert held == [(prompt, number) for number in range(3) for prompt in (0, 5)]
    assert len(train) == 24
    # A text that began from nothing has no prompt that others share.
    assert len(split_held_out(answers, 6, lambda _: (1,))[1]) == 6
    with pytest.raises(LMTPError, match="answer 1 prompts"):
        split_held_out(answers, 6, lambda _: (1, 2))


def test_rows_end_with_the_token_that_the_model_ended_with() -> None:
    records = [Record([1, 2, 3], 1, "", 0.0, ended=True, end_token=end) for end in (5, None)]
    found = answer_rows(records, 9, 10, 1, "texts")
    assert [row.tokens for row in found] == [[1, 2, 3, 5], [1, 2, 3, 9]]


def test_rows_end_where_the_model_ended_and_are_cut() -> None:
    records = [
        Record([1, 2, 3, 4], 1, "", 0.0, ended=True),
        Record([1, 2, 3, 4], 1, "", 0.0, ended=False),
        Record([1, 2, 3, 4, 5, 6, 7], 1, "", 0.0, ended=True),
    ]
    rows = answer_rows(records, end=9, row_tokens=5, offset=2, where="here")
    assert [row.tokens for row in rows] == [[1, 2, 3, 4, 9], [1, 2, 3, 4], [1, 2, 3, 4, 5]]


def test_texts_shorter_than_the_largest_offset_teach_nothing() -> None:
    short, long = Record([1, 2, 3], 1, "", 0.0), Record([1, 2, 3, 4], 1, "", 0.0)
    prompt_only = Record([1, 2, 3, 4, 5, 6], 5, "", 0.0)
    rows = answer_rows([short, long, prompt_only], None, row_tokens=5, offset=3, where="here")
    assert rows == [Row([1, 2, 3, 4], 1)]
    with pytest.raises(LMTPError) as error:
        answer_rows([short, prompt_only], None, row_tokens=5, offset=3, where="here")
    for part in ("here", "none of 2", "more than 3 tokens", "row_tokens"):
        assert part in str(error.value)


def test_prompts_and_padding_are_no_labels() -> None:
    batch = pad_rows([Row([1, 2, 3], 2), Row([4, 5])], pad_id=0)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert batch["labels"].tolist() == [[IGNORE, IGNORE, 3], [4, 5, IGNORE]]
