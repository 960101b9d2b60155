"""Folders that must be refused: each with the place, the field, what was found and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support import folders
from tests.support.refused import only_refusal, refusals
from vllm_lmtp.formats.checkpoint import CONFIG_FILE

ABSURD = [0, -1, 65, 10**9, "3", 2.5, 2.0, True, None, [2], {"k": 2}, float("inf")]


# --- the folder and its config.json ---------------------------------------------------------------


def test_nothing_at_the_path(tmp_path: Path) -> None:
    refusal = only_refusal(tmp_path / "absent")
    assert (refusal.where, refusal.field) == (str(tmp_path / "absent"), "path")
    assert refusal.found == "nothing there"


def test_path_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert only_refusal(tmp_path / "file").found == "a file"


@pytest.mark.parametrize("name", ["x" * 5000, "nul\0byte"])
def test_path_that_no_file_system_takes(name: str) -> None:
    assert only_refusal(Path(name)).field == "path"


def test_no_config(tmp_path: Path) -> None:
    folders.write(tmp_path)
    (tmp_path / CONFIG_FILE).unlink()
    refusal = only_refusal(tmp_path)
    assert (refusal.where, refusal.field) == (str(tmp_path), "config.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"n_head": 2,}',
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"n_head": 1' + b"0" * 5000 + b"}",
    ],
    ids=["empty", "cut", "comma", "not-utf8", "bom", "deep", "long-number"],
)
def test_config_is_not_json(tmp_path: Path, content: bytes) -> None:
    folders.write(tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes(content)
    refusal = only_refusal(tmp_path)
    assert refusal.where == str(tmp_path / CONFIG_FILE)
    assert refusal.found.startswith("unreadable JSON")


@pytest.mark.parametrize("content", ["[]", "3", "null", '"lmtp"'])
def test_config_is_json_but_not_an_object(tmp_path: Path, content: str) -> None:
    folders.write(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(content)
    refusal = only_refusal(tmp_path)
    assert refusal.where == str(tmp_path / CONFIG_FILE)
    assert refusal.found.startswith("a JSON ")


@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("field", ["n_head", "skip_token", "head_num_layers"])
def test_absurd_numbers(tmp_path: Path, field: str, value: object) -> None:
    refusal = only_refusal(folders.write(tmp_path, values=folders.config(**{field: value})))
    assert (refusal.where, refusal.field) == (str(tmp_path / CONFIG_FILE), field)
    assert refusal.found == repr(value)
    assert refusal.expected == "an integer from 1 to 64"


def test_no_stride_is_refused_with_the_option_that_gives_one(tmp_path: Path) -> None:
    refusal = only_refusal(folders.write(tmp_path, values=folders.config(skip_token=...)))
    assert refusal.field == "skip_token"
    assert "no such key" in refusal.found
    assert "lmtp_stride" in refusal.remedy


@pytest.mark.parametrize("stride", [0, -1, 65, True, 2.0])
def test_absurd_given_stride(tmp_path: Path, stride: int) -> None:
    refusal = only_refusal(folders.write(tmp_path), stride)
    assert "lmtp_stride" in refusal.field
    assert refusal.found == repr(stride)


@pytest.mark.parametrize("value", ["medusa", None, ["lmtp"], 3])
def test_heads_of_another_kind(tmp_path: Path, value: object) -> None:
    refusal = only_refusal(folders.write(tmp_path, values=folders.config(head_type=value)))
    assert (refusal.field, refusal.found, refusal.expected) == ("head_type", repr(value), "'lmtp'")


@pytest.mark.parametrize("field", ["hidden_size", "vocab_size"])
@pytest.mark.parametrize("value", [5, 10**9, "4", None])
def test_config_contradicts_the_tensors(tmp_path: Path, field: str, value: object) -> None:
    refusal = only_refusal(folders.write(tmp_path, values=folders.config(**{field: value})))
    assert (refusal.field, refusal.found) == (field, repr(value))
    actual = folders.HIDDEN if field == "hidden_size" else folders.VOCAB
    assert refusal.expected.startswith(f"{actual},")


def test_long_values_are_cut_in_the_message(tmp_path: Path) -> None:
    values = folders.config(n_head=["x" * 10_000] * 100)
    assert len(only_refusal(folders.write(tmp_path, values=values)).found) < 300


# --- the set of tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", ["resblock.0.l_proj.weight", "resblock.0.l_proj.bias", "lm_head.weight"]
)
@pytest.mark.parametrize("head", [0, 1])
def test_missing_tensor(tmp_path: Path, head: int, part: str) -> None:
    tensors = folders.heads()
    name = f"heads.heads.{head}.{part}"
    del tensors[name]
    refusal = only_refusal(folders.write(tmp_path, tensors))
    assert (refusal.where, refusal.field) == (str(tmp_path), name)


@pytest.mark.parametrize(("stated", "stored"), [(3, 2), (64, 2), (1, 2), (2, 3)])
def test_other_number_of_heads_than_stated(tmp_path: Path, stated: int, stored: int) -> None:
    folders.write(tmp_path, folders.heads(stored), folders.config(n_head=stated))
    refusal = only_refusal(tmp_path)
    assert refusal.field == "heads.heads.*"
    assert refusal.found == f"heads {list(range(stored))}"
    assert refusal.expected.startswith(f"{stated} head(s)")


@pytest.mark.parametrize("n_head", [3, ...])
def test_gap_in_the_heads(tmp_path: Path, n_head: object) -> None:
    tensors = {k: v for k, v in folders.heads(3).items() if not k.startswith("heads.heads.1.")}
    refusal = only_refusal(folders.write(tmp_path, tensors, folders.config(n_head=n_head)))
    assert refusal.found == "heads [0, 2]"


@pytest.mark.parametrize(
    "name",
    [
        "heads.foo",
        "heads.heads.0.lm_head.bias",
        "heads.heads.0.resblock.0.l_proj.scale",
        "heads.heads.00.lm_head.weight",
        "heads.heads.0.resblock.00.l_proj.weight",
        "heads.heads.-1.lm_head.weight",
        "heads.heads.٣.lm_head.weight",
        "heads.heads.1000000000.lm_head.weight",
        f"heads.heads.{'9' * 5000}.lm_head.weight",
        "heads.heads.0.lm_head.weight\n",
    ],
    ids=range(10),
)
def test_unknown_head_tensor(tmp_path: Path, name: str) -> None:
    tensors = folders.heads() | {name: torch.zeros(6, 4)}
    refusal = only_refusal(folders.write(tmp_path, tensors, folders.config(n_head=...)))
    assert (refusal.where, refusal.field) == (str(tmp_path / folders.WEIGHTS), name)


def test_more_blocks_than_stated(tmp_path: Path) -> None:
    found = refusals(folders.write(tmp_path, folders.heads(2, layers=2)))
    assert {r.field for r in found} == {
        f"heads.heads.{head}.resblock.1.l_proj.{kind}"
        for head in (0, 1)
        for kind in ("weight", "bias")
    }
    assert {(r.found, r.expected) for r in found} == {
        ("block 1", "blocks 0..0, as head_num_layers states")
    }


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    tensors = folders.heads()
    name = "heads.heads.1.lm_head.weight"
    refusal = only_refusal(folders.write_sharded(tmp_path, [tensors, {name: tensors[name]}]))
    assert refusal.where.endswith("model-00002-of-00002.safetensors")
    assert refusal.field == name
    assert "model-00001-of-00002.safetensors" in refusal.found


def test_no_heads_at_all(tmp_path: Path) -> None:
    refusal = only_refusal(folders.write(tmp_path, folders.backbone()))
    assert (refusal.where, refusal.field) == (str(tmp_path), "heads.*")
    assert "merged" in refusal.remedy


# --- single tensors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("lm_head.weight", (5, 4)),
        ("lm_head.weight", (6, 5)),
        ("lm_head.weight", (4, 6)),
        ("lm_head.weight", (24,)),
        ("lm_head.weight", (6, 4, 1)),
        ("lm_head.weight", (0, 4)),
        ("lm_head.weight", ()),
        ("resblock.0.l_proj.weight", (4, 5)),
        ("resblock.0.l_proj.weight", (16,)),
        ("resblock.0.l_proj.bias", (5,)),
        ("resblock.0.l_proj.bias", (4, 1)),
        ("resblock.0.l_proj.bias", (0,)),
    ],
)
def test_wrong_shape_or_rank(tmp_path: Path, part: str, shape: tuple[int, ...]) -> None:
    name = f"heads.heads.1.{part}"
    right = list(folders.heads()[name].shape)
    refusal = only_refusal(
        folders.write(tmp_path, folders.heads() | {name: torch.zeros(shape).bfloat16()})
    )
    assert (refusal.where, refusal.field) == (str(tmp_path / folders.WEIGHTS), name)
    assert (refusal.found, refusal.expected) == (f"shape {list(shape)}", f"shape {right}")


def test_no_output_matrix_of_any_use(tmp_path: Path) -> None:
    tensors = folders.heads()
    for head in (0, 1):
        tensors[f"heads.heads.{head}.lm_head.weight"] = torch.zeros(24)
    found = refusals(folders.write(tmp_path, tensors))
    assert all("shape [24]" in r.found for r in found if "lm_head" in r.field)
    assert {r.field for r in found} >= {f"heads.heads.{h}.lm_head.weight" for h in (0, 1)}


def test_heads_of_no_size_at_all(tmp_path: Path) -> None:
    values = folders.config(hidden_size=0, vocab_size=0)
    found = refusals(folders.write(tmp_path, folders.heads(hidden=0, vocab=0), values))
    assert {r.field for r in found} == set(folders.heads())


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int64, torch.bool, torch.float64, torch.float8_e4m3fn]
)
def test_wrong_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = folders.heads()
    name = "heads.heads.0.lm_head.weight"
    tensors[name] = torch.zeros(folders.VOCAB, folders.HIDDEN).to(dtype)
    refusal = only_refusal(folders.write(tmp_path, tensors))
    assert refusal.field == name
    assert refusal.found.startswith("dtype ")
    assert refusal.expected == "BF16 or F16 or F32 or I8"


# --- int8 output matrices and a draft vocabulary --------------------------------------------------

SCALE = "heads.heads.1.lm_head.scale"


def test_int8_without_scales(tmp_path: Path) -> None:
    tensors = folders.reduced()
    del tensors[SCALE]
    refusal = only_refusal(folders.write(tmp_path, tensors, folders.reduced_config()))
    assert (refusal.where, refusal.field, refusal.found) == (str(tmp_path), SCALE, "no such tensor")


def test_scales_beside_a_float_matrix(tmp_path: Path) -> None:
    tensors = folders.heads() | {SCALE: torch.ones(folders.VOCAB)}
    refusal = only_refusal(folders.write(tmp_path, tensors))
    assert (refusal.where, refusal.field) == (str(tmp_path / folders.WEIGHTS), SCALE)
    assert refusal.found == "scales beside a weight of dtype BF16"


@pytest.mark.parametrize("shape", [(3,), (4, 1), (), (6,), (0,)])
@pytest.mark.parametrize("name", [SCALE, "heads.d2t"])
def test_wrong_shape_of_scales_or_map(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    tensors = folders.reduced()
    tensors[name] = torch.ones(shape, dtype=tensors[name].dtype)
    refusal = only_refusal(folders.write(tmp_path, tensors, folders.reduced_config()))
    assert (refusal.where, refusal.field) == (str(tmp_path / folders.WEIGHTS), name)
    assert (refusal.found, refusal.expected) == (f"shape {list(shape)}", "shape [4]")


@pytest.mark.parametrize("name", [SCALE, "heads.d2t"])
def test_wrong_dtype_of_scales_or_map(tmp_path: Path, name: str) -> None:
    tensors = folders.reduced()
    tensors[name] = tensors[name].to(torch.int32)
    refusal = only_refusal(folders.write(tmp_path, tensors, folders.reduced_config()))
    assert (refusal.field, refusal.found) == (name, "dtype I32")


def test_heads_that_draft_from_different_vocabularies(tmp_path: Path) -> None:
    name = "heads.heads.1.lm_head.weight"
    tensors = folders.reduced() | {name: torch.zeros(folders.VOCAB, folders.HIDDEN)}
    del tensors[SCALE]
    refusal = only_refusal(folders.write(tmp_path, tensors, folders.reduced_config()))
    assert (refusal.field, refusal.found, refusal.expected) == (
        name,
        "shape [6, 4]",
        "shape [4, 4]",
    )


def test_draft_vocabulary_without_its_map(tmp_path: Path) -> None:
    tensors = folders.reduced()
    del tensors["heads.d2t"]
    refusal = only_refusal(folders.write(tmp_path, tensors, folders.reduced_config()))
    assert (refusal.where, refusal.field) == (str(tmp_path), "heads.d2t")


@pytest.mark.parametrize("value", [5, 0, "4", None, 4.5])
def test_other_draft_vocabulary_than_the_matrices(tmp_path: Path, value: object) -> None:
    values = folders.reduced_config(draft_vocab_size=value)
    refusal = only_refusal(folders.write(tmp_path, folders.reduced(), values))
    assert (refusal.field, refusal.found) == ("draft_vocab_size", repr(value))
    assert refusal.expected.startswith("4,")


@pytest.mark.parametrize("value", [..., 3, 0, -6, "6", None, True, 2**24 + 1])
def test_target_vocabulary_must_be_stated_beside_a_draft_vocabulary(
    tmp_path: Path, value: object
) -> None:
    values = folders.reduced_config(vocab_size=value)
    refusal = only_refusal(folders.write(tmp_path, folders.reduced(), values))
    assert refusal.field == "vocab_size"
    assert refusal.found == repr("no such key" if value is ... else value)


def test_map_without_any_head(tmp_path: Path) -> None:
    tensors = {"heads.d2t": torch.zeros(4, dtype=torch.int64)}
    found = refusals(folders.write(tmp_path, tensors, folders.reduced_config(n_head=...)))
    assert {r.field for r in found} == {"heads.heads.*", "heads.d2t"}


# --- many at once ---------------------------------------------------------------------------------


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    tensors = folders.heads()
    del tensors["heads.heads.0.resblock.0.l_proj.bias"]
    tensors["heads.heads.1.lm_head.weight"] = torch.zeros(6, 4, dtype=torch.uint8)
    tensors["heads.foo"] = torch.zeros(1)
    values = folders.config(skip_token=..., head_num_layers=0, vocab_size=7, head_type="medusa")

    found = refusals(folders.write(tmp_path, tensors, values))

    assert sorted(r.field for r in found) == [
        "head_num_layers",
        "head_type",
        "heads.foo",
        "heads.heads.0.resblock.0.l_proj.bias",
        "heads.heads.1.lm_head.weight",
        "skip_token",
        "vocab_size",
    ]


def test_damaged_weights_do_not_hide_a_bad_config(tmp_path: Path) -> None:
    folders.write(tmp_path, values=folders.config(skip_token=0))
    (tmp_path / folders.WEIGHTS).write_bytes(b"")
    assert [r.field for r in refusals(tmp_path)] == ["content", "skip_token"]
