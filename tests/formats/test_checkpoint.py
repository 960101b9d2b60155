"""Folders that must be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support import folders
from tests.support.chain.target import make_chain, save_chain
from vllm_lmtp.formats.checkpoint import (
    CONFIG_FILE,
    INDEX_FILE,
    is_lmtp_config,
    is_stage1_config,
    read_checkpoint,
    read_config,
)
from vllm_lmtp.formats.tensors import required_tensors
from vllm_lmtp.method.leap import LeapSchedule


def test_heads_only_folder(tmp_path: Path) -> None:
    found = read_checkpoint(folders.write(tmp_path))

    assert found.path == tmp_path
    assert found.schedule == LeapSchedule(2, 2)
    assert (found.num_layers, found.hidden_size, found.vocab_size) == (1, 4, 6)
    assert not found.stage1
    assert sorted(found.tensors) == sorted(required_tensors(2))


def test_tensor_infos_say_where_and_what(tmp_path: Path) -> None:
    output = read_checkpoint(folders.write(tmp_path)).lm_head(1)

    assert output.file == tmp_path / folders.WEIGHTS
    assert output.shape == (folders.VOCAB, folders.HIDDEN)
    assert output.dtype == "BF16"


def test_stage1_folder_with_tied_matrix_written_twice(tmp_path: Path) -> None:
    values = folders.config(stage1=True, tie_word_embeddings=True, model_name="some/base")

    found = read_checkpoint(folders.write(tmp_path, folders.backbone() | folders.heads(), values))

    assert found.stage1
    assert sorted(found.tensors) == sorted(required_tensors(2))


@pytest.mark.parametrize(("layout", "stage1"), [("stage1", True), ("heads", False)])
def test_both_layouts_of_the_chain(tmp_path: Path, layout: str, stage1: bool) -> None:
    found = read_checkpoint(save_chain(make_chain(3, 4), tmp_path, layout))

    assert found.schedule == LeapSchedule(3, 4)
    assert found.stage1 is stage1


def test_gemma_like_config_takes_the_head_count_from_the_tensors(tmp_path: Path) -> None:
    """The reference's Gemma 3 configs lack n_head, head_num_layers and head_type."""
    values = folders.config(
        stage1=True, model_type="gemma3_text", n_head=..., head_num_layers=..., head_type=...
    )

    found = read_checkpoint(folders.write(tmp_path, folders.heads(3), values))

    assert found.schedule == LeapSchedule(3, 2)
    assert found.num_layers == 1
    assert found.stage1


def test_sizes_may_be_absent_from_the_config(tmp_path: Path) -> None:
    values = folders.config(hidden_size=..., vocab_size=...)
    found = read_checkpoint(folders.write(tmp_path, values=values))
    assert (found.hidden_size, found.vocab_size) == (folders.HIDDEN, folders.VOCAB)


def test_shards_of_an_index(tmp_path: Path) -> None:
    tensors = folders.heads()
    first = {k: v for k, v in tensors.items() if ".0.resblock" in k} | folders.backbone()
    rest = {k: v for k, v in tensors.items() if k not in first}

    found = read_checkpoint(folders.write_sharded(tmp_path, [first, rest]))

    assert sorted(found.tensors) == sorted(required_tensors(2))
    assert len({info.file for info in found.tensors.values()}) == 2


def test_files_that_the_index_does_not_name_are_ignored(tmp_path: Path) -> None:
    folders.write(tmp_path)  # model.safetensors, a stale copy of everything
    folders.write_sharded(tmp_path, [folders.heads(3)])
    (tmp_path / CONFIG_FILE).write_text(json.dumps(folders.config(n_head=3)))

    assert read_checkpoint(tmp_path).schedule.n_heads == 3


def test_several_files_need_no_index(tmp_path: Path) -> None:
    folders.write_sharded(tmp_path, [folders.heads(2), folders.backbone()])
    (tmp_path / INDEX_FILE).unlink()
    assert read_checkpoint(tmp_path).schedule.n_heads == 2


def test_links_are_followed_as_in_the_hub_cache(tmp_path: Path) -> None:
    folders.write(tmp_path / "blobs")
    snapshot = tmp_path / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for file in (tmp_path / "blobs").iterdir():
        (snapshot / file.name).symlink_to(file)
    assert read_checkpoint(snapshot).schedule.n_heads == 2


def test_given_stride_replaces_the_stated_one(tmp_path: Path) -> None:
    assert read_checkpoint(folders.write(tmp_path), stride=3).schedule == LeapSchedule(2, 3)


@pytest.mark.parametrize("stated", [..., 0, "3", None, 10**9])
def test_given_stride_excuses_a_bad_stated_one(tmp_path: Path, stated: object) -> None:
    folders.write(tmp_path, values=folders.config(skip_token=stated))
    assert read_checkpoint(tmp_path, stride=5).schedule.stride == 5


@pytest.mark.parametrize("copies", [1, 2])
def test_repeated_blocks_may_be_stored_once_or_as_copies(tmp_path: Path, copies: int) -> None:
    values = folders.config(head_num_layers=2)
    found = read_checkpoint(folders.write(tmp_path, folders.heads(2, copies), values))
    assert found.num_layers == 2
    assert len(found.tensors) == 2 * (2 * copies + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_float_types(tmp_path: Path, dtype: torch.dtype) -> None:
    found = read_checkpoint(folders.write(tmp_path, folders.heads(dtype=dtype)))
    assert found.vocab_size == folders.VOCAB


def test_int8_matrices_of_a_draft_vocabulary(tmp_path: Path) -> None:
    found = read_checkpoint(
        folders.write(tmp_path, folders.reduced(), folders.reduced_config(draft_vocab_size=...))
    )
    assert (found.vocab_size, found.draft_vocab_size, found.output_rows) == (6, 4, 4)
    assert found.lm_head(0).dtype == "I8"
    assert set(found.tensors) == set(folders.reduced())


def test_draft_vocabulary_may_be_all_of_the_target(tmp_path: Path) -> None:
    values = folders.reduced_config(folders.VOCAB)
    found = read_checkpoint(folders.write(tmp_path, folders.reduced(drafted=folders.VOCAB), values))
    assert (found.vocab_size, found.draft_vocab_size) == (folders.VOCAB, folders.VOCAB)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_int8_without_a_draft_vocabulary(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = folders.reduced(drafted=folders.VOCAB)
    del tensors["heads.d2t"]
    tensors = {n: t.to(dtype) if n.endswith("scale") else t for n, t in tensors.items()}
    found = read_checkpoint(folders.write(tmp_path, tensors))
    assert (found.draft_vocab_size, found.output_rows) == (None, folders.VOCAB)


def test_largest_numbers(tmp_path: Path) -> None:
    values = folders.config(n_head=64, skip_token=64, head_num_layers=64)
    found = read_checkpoint(folders.write(tmp_path, folders.heads(64), values))
    assert found.schedule.max_drafts == 64 * 64


@pytest.mark.parametrize(
    ("values", "lmtp", "stage1"),
    [
        (folders.config(), True, False),
        (folders.config(stage1=True), True, True),
        (folders.config(stage1=True, head_type=...), True, True),
        (folders.config(architectures=["Qwen2ForCausalLM"]), True, False),
        (folders.config(architectures=["Qwen2ForCausalLM"], head_type=...), False, False),
        (folders.config(stage1=True, architectures=None, head_type="medusa"), False, False),
        ({"num_hidden_layers": 2, "architectures": "LMTPModel"}, False, False),
        ({}, False, False),
    ],
)
def test_kind_of_folder_is_told_by_its_config(
    values: dict[str, object], lmtp: bool, stage1: bool
) -> None:
    assert (is_lmtp_config(values), is_stage1_config(values)) == (lmtp, stage1)


def test_raw_config_is_returned_as_it_is(tmp_path: Path) -> None:
    values = folders.config(surplus={"é": [1, None]})
    assert read_config(folders.write(tmp_path, values=values)) == values
