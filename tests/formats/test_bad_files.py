"""Weight files and indexes that must be refused, and never executed or waited for."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.support import folders
from tests.support.refused import only_refusal
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, INDEX_FILE, read_config

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
