"""Prompt sets: rows to prompts, groups, an even spread, and bad files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from vllm_lmtp.errors import LMTPError
from vllm_lmtp.eval.prompts.sets import MULTI_TURN, SETS, SPEC_BENCH_GROUPS, load_set, spread


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_spread_is_even() -> None:
    assert spread(10, 5) == [0, 2, 4, 6, 8]
    assert spread(3, 5) == [0, 1, 2]
    assert spread(4, None) == [0, 1, 2, 3]
    assert spread(480, 7)[-1] >= 480 - 480 // 7 - 1


def test_spec_bench_in_its_own_columns(tmp_path: Path) -> None:
    categories = ["writing", "coding", *SPEC_BENCH_GROUPS]
    rows = [
        {"question_id": i, "category": c, "turns": [f"{c} {n}", "and then?"]}
        for i, (c, n) in enumerate((c, n) for c in categories for n in range(4))
    ]
    write(tmp_path / "spec_bench_question.jsonl", rows)
    loaded = load_set("spec_bench", tmp_path, limit=2)
    assert loaded.facts["groups"] == dict.fromkeys([MULTI_TURN, *SPEC_BENCH_GROUPS.values()], 2)
    texts = [p.text for p in loaded.prompts if p.group == MULTI_TURN]
    assert texts == ["writing 0", "coding 0"]  # the first turn, and half a group apart
    assert all("then" not in str(p.text) for p in loaded.prompts)
    assert (loaded.facts["found"], loaded.facts["rows"], loaded.facts["used"]) == (28, 480, 12)


def test_speed_bench_as_its_script_writes_it(tmp_path: Path) -> None:
    rows = [
        {
            "question_id": f"q{n}",
            "category": category,
            "sub_category": None,
            "src_id": n,
            "difficulty": "low",
            "messages": [{"role": "user", "content": f" {category} {n} "}, {"content": "then"}],
        }
        for category in ("coding", "rag")
        for n in range(3)
    ]
    write(tmp_path / "qualitative.jsonl", rows)
    loaded = load_set("speed_bench_qualitative", tmp_path, limit=2)
    assert loaded.facts["groups"] == {"coding": 2, "rag": 2}
    assert [p.text for p in loaded.prompts] == ["coding 0", "coding 1", "rag 0", "rag 1"]
    with pytest.raises(LMTPError, match=r"no throughput_1k.jsonl in .*prepare.py"):
        load_set("speed_bench_throughput_1k", tmp_path)
    with pytest.raises(LMTPError, match="no folder"):
        load_set("speed_bench_throughput_32k")


def test_vllms_own_benchmark_reads_the_same_file(tmp_path: Path) -> None:
    from vllm.benchmarks.datasets.datasets import SpeedBench

    rows = [
        {"category": "qa", "messages": [{"role": "user", "content": t}]} for t in ("one", "two")
    ]
    write(tmp_path / "qualitative.jsonl", rows)
    theirs = SpeedBench(dataset_path=str(tmp_path), dataset_subset="qualitative", random_seed=0)
    ours = load_set("speed_bench_qualitative", tmp_path)
    assert {row["prompt"] for row in theirs.data} == {p.text for p in ours.prompts}


def test_the_hub_copy_of_mt_bench_reads_as_the_authors_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mt_bench_question.jsonl", [{"category": "math", "turns": ["one", "two"]}])
    local = load_set("mt_bench", tmp_path)
    asked: list[Any] = []

    def load_dataset(*names: Any, **options: Any) -> list[dict[str, Any]]:
        asked.append((names, options))
        return [{"category": "math", "prompt": ["one", "two"]}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    fetched = load_set("mt_bench")
    assert asked == [(("HuggingFaceH4/mt_bench_prompts", None), {"split": "train"})]
    assert fetched.prompts == local.prompts
    assert fetched.facts["sha256_of_prompts"] == local.facts["sha256_of_prompts"]
    assert fetched.facts["read_from"] != local.facts["read_from"]


def test_only_the_test_rows_of_mbpp(tmp_path: Path) -> None:
    write(tmp_path / "mbpp.jsonl", [{"task_id": i, "text": str(i)} for i in (1, 10, 11, 510, 601)])
    assert [p.text for p in load_set("mbpp_test", tmp_path).prompts] == ["11", "510"]


def test_other_prompts_have_another_sum(tmp_path: Path) -> None:
    sums = set()
    for text in ("a", "b"):
        write(tmp_path / "gsm8k_test.jsonl", [{"question": text}])
        sums.add(load_set("gsm8k_test", tmp_path).facts["sha256_of_prompts"])
    assert len(sums) == 2


def test_stories_need_no_file() -> None:
    loaded = load_set("stories", limit=3)
    assert [p.number for p in loaded.prompts] == [0, 4, 8]


def test_an_own_file_of_texts_and_tokens(tmp_path: Path) -> None:
    rows = [{"prompt": "Hello", "group": "short"}, {"tokens": [4, 5]}]
    loaded = load_set(str(write(tmp_path / "mine.jsonl", rows)))
    assert [(p.text, p.tokens, p.group) for p in loaded.prompts] == [
        ("Hello", None, "short"),
        (None, (4, 5), "mine"),
    ]
    assert loaded.facts["name"] == "mine.jsonl"


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ([{"tokens": []}], "row"),
        ([{"tokens": [1, "2"]}], "row"),
        ([{"tokens": [True]}], "row"),
        ([{"text": "Hello"}], "row"),
        ([], "rows"),
    ],
)
def test_bad_rows_of_an_own_file(rows: list[dict[str, Any]], field: str, tmp_path: Path) -> None:
    with pytest.raises(LMTPError) as error:
        load_set(str(write(tmp_path / "mine.jsonl", rows)))
    assert error.value.refusals[0].field == field


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("gsm8k_test", {"answer": "4"}),
        ("mt_bench", {"category": "math", "turns": []}),
        ("mt_bench", {"category": "math", "turns": "one"}),
        ("mbpp_test", {"task_id": "twelve", "text": "x"}),
    ],
)
def test_rows_that_are_not_of_the_set(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / SETS[name].file, [row])
    with pytest.raises(LMTPError, match=f"{SETS[name].file}:1"):
        load_set(name, tmp_path)


def test_a_line_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "gsm8k_test.jsonl").write_text('{"question": "a"}\nnothing\n')
    with pytest.raises(LMTPError, match=r"gsm8k_test\.jsonl:2"):
        load_set("gsm8k_test", tmp_path)


def test_an_unknown_set_names_the_known_ones() -> None:
    with pytest.raises(LMTPError, match=r"stories, questions, gsm8k_test, .* JSONL file"):
        load_set("gsm9k")


def test_a_set_that_cannot_be_fetched_says_what_to_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(LMTPError, match=r"no network.*spec_bench_question\.jsonl.*--path"):
        load_set("spec_bench", tmp_path)
