"""Folders that must be refused: each with the place, the field, what was found and a remedy."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.unit import folders
from vllm_lmtp.checkpoint import CONFIG_FILE, INDEX_FILE, read_checkpoint, read_config
from vllm_lmtp.errors import LMTPError, Refusal

ABSURD = [0, -1, 65, 10**9, "3", 2.5, 2.0, True, None, [2], {"k": 2}, float("inf")]


def refusals(folder: Path, stride: int | None = None) -> tuple[Refusal, ...]:
    """The refusals of a folder; each must be complete."""
    with pytest.raises(LMTPError) as caught:
        read_checkpoint(folder, stride)
    for refusal in caught.value.refusals:
        for part in (refusal.where, refusal.field, refusal.found, refusal.expected, refusal.remedy):
            assert part
            assert part in str(caught.value)
    return caught.value.refusals


def only_refusal(folder: Path, stride: int | None = None) -> Refusal:
    (refusal,) = refusals(folder, stride)
    return refusal


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
    "dtype", [torch.int8, torch.int64, torch.bool, torch.float64, torch.float8_e4m3fn]
)
def test_wrong_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = folders.heads()
    name = "heads.heads.0.lm_head.weight"
    tensors[name] = torch.zeros(folders.VOCAB, folders.HIDDEN).to(dtype)
    refusal = only_refusal(folders.write(tmp_path, tensors))
    assert refusal.field == name
    assert refusal.found.startswith("dtype ")
    assert refusal.expected == "BF16 or F16 or F32"


# --- weight files ---------------------------------------------------------------------------------


def test_truncated_file_wherever_it_is_cut(tmp_path: Path) -> None:
    weights = folders.write(tmp_path) / folders.WEIGHTS
    whole = weights.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    for length in [
        *range(40),
        *range(40, len(whole), 23),
        8 + header - 1,
        8 + header,
        len(whole) - 1,
    ]:
        weights.write_bytes(whole[:length])
        refusal = only_refusal(tmp_path)
        assert (refusal.where, refusal.field) == (str(weights), "content"), length
        assert refusal.found.startswith("not a whole safetensors file"), length


def header_says(header: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"\xff" * 100,
        bytes(range(256)) * 4,
        b"PK\x03\x04" + b"\x00" * 60,
        header_says(b"{}", size=2**63),
        header_says(b"{}", size=99_999_999),
        header_says(b"[]"),
        header_says(b'{"heads.heads.0.lm_head.weight": 3}'),
        header_says(b'{"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}') + b"\x00" * 4,
        header_says(
            b'{"x": {"dtype": "F32", "shape": [4294967296, 4294967296, 4294967296], '
            b'"data_offsets": [0, 4]}}'
        )
        + b"\x00" * 4,
        header_says(b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}') + b"\x00" * 4,
        header_says(b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}')
        + b"\x00" * 4,
    ],
    ids=range(13),
)
def test_file_that_is_not_safetensors(tmp_path: Path, content: bytes) -> None:
    weights = folders.write(tmp_path) / folders.WEIGHTS
    weights.write_bytes(content)
    refusal = only_refusal(tmp_path)
    assert (refusal.where, refusal.field) == (str(weights), "content")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda p: os.symlink("gone", p)])
def test_weight_file_that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    weights = folders.write(tmp_path) / folders.WEIGHTS
    weights.unlink()
    make(weights)
    assert only_refusal(tmp_path).where == str(weights)


def test_config_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / CONFIG_FILE)
    with pytest.raises(LMTPError, match="no such file"):
        read_config(tmp_path)


class WritesAFile:
    """Unpickling this creates `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "heads.pt", "last.ckpt", "model.pth", "m.pkl"]
)
def test_pickles_are_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    folders.write(tmp_path)
    (tmp_path / folders.WEIGHTS).unlink()
    proof = tmp_path / "executed"
    (tmp_path / name).write_bytes(pickle.dumps(WritesAFile(proof)))

    refusal = only_refusal(tmp_path)

    assert refusal.field == "weights"
    assert name in refusal.found
    assert "safe_serialization" in refusal.remedy
    assert not proof.exists()


def test_pickle_that_an_index_names_is_not_executed(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    folders.write_sharded(tmp_path, [folders.heads()])
    (tmp_path / "weights.bin").write_bytes(pickle.dumps(WritesAFile(proof)))
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"x": "weights.bin"}}))

    assert only_refusal(tmp_path).where.endswith("weights.bin")
    assert not proof.exists()


def test_no_weight_file(tmp_path: Path) -> None:
    folders.write(tmp_path)
    (tmp_path / folders.WEIGHTS).unlink()
    refusal = only_refusal(tmp_path)
    assert (refusal.field, refusal.found) == ("weights", "no weight file")


# --- the index ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        "{}",
        '{"weight_map": null}',
        '{"weight_map": {}}',
        '{"weight_map": ["model.safetensors"]}',
        '{"weight_map": {"x": 3}}',
        '{"weight_map": {"x": ["model.safetensors"]}}',
    ],
)
def test_broken_index(tmp_path: Path, content: str) -> None:
    folders.write(tmp_path)
    (tmp_path / INDEX_FILE).write_text(content)
    refusal = only_refusal(tmp_path)
    assert refusal.where == str(tmp_path / INDEX_FILE)
    assert "download the index again" in refusal.remedy


@pytest.mark.parametrize(
    "name",
    ["gone.safetensors", "", ".", "..", "sub/x.safetensors", "a\0b", "x" * 4000, "\ud800"],
    ids=range(8),
)
def test_index_names_a_missing_shard(tmp_path: Path, name: str) -> None:
    folders.write(tmp_path)
    (tmp_path / INDEX_FILE).write_text(
        json.dumps({"weight_map": {"x": name, "y": folders.WEIGHTS}})
    )
    refusal = only_refusal(tmp_path)
    assert (refusal.where, refusal.field) == (str(tmp_path / INDEX_FILE), "weight_map")
    assert refusal.found.endswith(ascii(name))
    refusal.found.encode()  # printable whatever the name


@pytest.mark.parametrize("way", ["../{}", "inside/../../{}", "{absolute}"])
def test_index_cannot_lead_out_of_the_folder(tmp_path: Path, way: str) -> None:
    inside = folders.write(tmp_path / "inside")
    outside = tmp_path / "outside.safetensors"
    save_file(folders.heads(), str(outside))
    name = way.format(outside.name, absolute=outside)
    (inside / INDEX_FILE).write_text(json.dumps({"weight_map": {"x": name}}))
    assert only_refusal(inside).where == str(inside / INDEX_FILE)


# --- many at once ---------------------------------------------------------------------------------


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    tensors = folders.heads()
    del tensors["heads.heads.0.resblock.0.l_proj.bias"]
    tensors["heads.heads.1.lm_head.weight"] = torch.zeros(6, 4, dtype=torch.int8)
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
