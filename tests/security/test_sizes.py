"""Sizes, numbers, names and depths that nobody has: refused at once, with little memory."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.security.limits import no_hang, refused_cheaply
from tests.support import folders
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, INDEX_FILE, MAX_VOCAB, read_checkpoint
from vllm_lmtp.formats.files import read_weights
from vllm_lmtp.formats.unmerged import ADAPTER_CONFIG, ADAPTER_FILE
from vllm_lmtp.tools.folders.adapter import read_adapter
from vllm_lmtp.tools.folders.save import PROVENANCE_FILE, _steps


def write(folder: Path) -> Path:
    """A sound folder with an index."""
    return folders.write_sharded(folder, [folders.heads()])


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [2**63, 2**64 - 1, 2**60, 10**9, 10**7 + 1])
@pytest.mark.parametrize("bytes_there", [0, 100, 10**12])
def test_a_header_of_absurd_size(tmp_path: Path, stated: int, bytes_there: int) -> None:
    """Also in a file that is as large, most of it a hole."""
    weights = folders.write(tmp_path) / folders.WEIGHTS
    weights.write_bytes(struct.pack("<Q", stated) + b"{}")
    os.truncate(weights, 10 + bytes_there)
    (refusal,) = refused_cheaply(read_checkpoint, tmp_path)
    assert (refusal.where, refusal.field) == (str(weights), "content")
    assert f"a header of {stated} bytes" in refusal.found


@pytest.mark.parametrize("size", [33 * 10**6, 2**40])
@pytest.mark.parametrize("name", [CONFIG_FILE, INDEX_FILE])
def test_json_of_absurd_size(tmp_path: Path, name: str, size: int) -> None:
    (write(tmp_path) / name).write_text("{}")
    os.truncate(tmp_path / name, size)
    (refusal,) = refused_cheaply(read_checkpoint, tmp_path)
    assert (refusal.where, refusal.field) == (str(tmp_path / name), "content")
    assert str(size) in refusal.found


def hole(folder: Path, shapes: dict[str, list[int]], dtype: str, item: int) -> None:
    """A weight file of tensors that are nothing but a hole in it."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + item * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    (folder / folders.WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(folder / folders.WEIGHTS, 8 + len(text) + end)


def shapes(hidden: int, vocab: int, n_heads: int = 2) -> dict[str, list[int]]:
    return {name: list(t.shape) for name, t in folders.heads(n_heads, 1, 2, 3).items()} | {
        f"heads.heads.{head}.{part}": shape
        for head in range(n_heads)
        for part, shape in (
            ("resblock.0.l_proj.weight", [hidden, hidden]),
            ("resblock.0.l_proj.bias", [hidden]),
            ("lm_head.weight", [vocab, hidden]),
        )
    }


def test_a_vocabulary_of_absurd_size_in_the_tensors(tmp_path: Path) -> None:
    """A file system lets a hole be any size, so config.json can even agree with it."""
    vocab = MAX_VOCAB + 1
    folders.write(tmp_path, values=folders.config(vocab_size=vocab))
    hole(tmp_path, shapes(folders.HIDDEN, vocab), "BF16", 2)
    (refusal,) = refused_cheaply(read_checkpoint, tmp_path)
    assert refusal.found == f"{vocab} rows"


def test_shapes_whose_product_overflows(tmp_path: Path) -> None:
    for vocab, hidden in ((2**32, 2**32), (2**63, 2), (10**12, 10**12)):
        folders.write(tmp_path)
        header = {
            name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 8]}
            for name, shape in shapes(hidden, vocab).items()
        }
        text = json.dumps(header).encode()
        (tmp_path / folders.WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
        refused_cheaply(read_checkpoint, tmp_path)


@pytest.mark.parametrize("value", [10**9, 10**12, 10**400, -(10**12), 1e308, float("nan")])
@pytest.mark.parametrize(
    "field", ["n_head", "skip_token", "head_num_layers", "hidden_size", "vocab_size"]
)
def test_a_number_of_absurd_size_in_the_config(tmp_path: Path, field: str, value: Any) -> None:
    (refusal,) = refused_cheaply(
        read_checkpoint, folders.write(tmp_path, values=folders.config(**{field: value}))
    )
    assert (refusal.where, refusal.field) == (str(tmp_path / CONFIG_FILE), field)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 10**400, 1e308, "1", [], None])
def test_a_number_of_absurd_size_in_a_scorer(tmp_path: Path, value: Any) -> None:
    stated: list[dict[str, Any]] = [
        {"kind": "table", "weight": value},
        {"kind": "table", "weight": 1, "confidence": {"places": [{"slope": value}]}},
        {
            "kind": "table",
            "weight": 1,
            "copying": {"log_odds": [value] * (65 if value == -1 else 1)},
        },
        {"kind": "table", "weight": 1, "copying": {"log_odds": [0], "accuracy": [value]}},
    ]
    tensors = folders.heads() | folders.scorer("table")
    for scorer in stated:
        folders.write(tmp_path, tensors, folders.config(scorer=scorer))
        (refusal,) = refused_cheaply(read_checkpoint, tmp_path)
        assert refusal.field.startswith("scorer.")


def test_tens_of_thousands_of_faults(tmp_path: Path) -> None:
    """They are all found, and the message names as many as somebody may read."""
    names = {f"heads.{n}": torch.zeros(0, dtype=torch.uint8) for n in range(40_000)}
    folders.write(tmp_path, folders.heads() | names)
    found = refused_cheaply(read_checkpoint, tmp_path, seconds=4.0)  # 0.1 ms for each of them
    assert len(found) == 40_000


# --- names and depths -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", ["../outside/{}", "{absolute}", "./{}", "sub/../{}", "//{absolute}"]
)
def test_an_index_that_names_another_folders_file(tmp_path: Path, way: str) -> None:
    inside, outside = write(tmp_path / "inside"), tmp_path / "outside"
    outside.mkdir()
    name = "model-00001-of-00001.safetensors"
    save_file(folders.heads(), outside / name)
    named = way.format(name, absolute=outside / name)
    (inside / INDEX_FILE).write_text(json.dumps({"weight_map": {"x": named}}))
    for read in (read_checkpoint, read_weights):
        (refusal,) = refused_cheaply(read, inside)
        assert (refusal.where, refusal.field) == (str(inside / INDEX_FILE), "weight_map")


DEEP = {
    "lists": b"[" * 10**6,
    "objects": b'{"a":' * 10**6,
    "in a field": b'{"n_head": ' + b"[" * 10**6 + b"]" * 10**6 + b"}",
    "a long number": b'{"n_head": ' + b"9" * 10**6 + b"}",
    "a long name": b'{"' + b"n" * 10**7 + b'": 1}',
    "not a number": b'{"n_head": NaN, "skip_token": Infinity}',
    "twice": b'{"n_head": 2, "n_head": 2000}',
    "surrogates": b'{"head_type": "\\\\ud800"}',
}


def read_adapter_of(folder: Path) -> None:
    read_adapter(folder, read_weights(folders.write(folder / "base")))


@pytest.mark.parametrize("text", DEEP.values(), ids=list(DEEP))
def test_json_that_is_deep_or_long(tmp_path: Path, text: bytes) -> None:
    places: list[tuple[str, Callable[[Path], object]]] = [
        (CONFIG_FILE, read_checkpoint),
        (INDEX_FILE, read_checkpoint),
        (ADAPTER_CONFIG, read_adapter_of),
    ]
    for name, read in places:
        folder = tmp_path / name
        folder.mkdir()
        if read is read_checkpoint:
            folders.write(folder)
        else:
            save_file({"a": torch.zeros(1)}, folder / ADAPTER_FILE)
        (folder / name).write_bytes(text)
        refused_cheaply(read, folder)
    with no_hang():
        (tmp_path / PROVENANCE_FILE).write_bytes(text)
        assert _steps(tmp_path) == []


def test_a_safetensors_header_that_is_deep(tmp_path: Path) -> None:
    for text in (b'{"a":' * 10**5, b"[" * 10**6, b'{"__metadata__": ' + b"{" * 10**5):
        weights = folders.write(tmp_path) / folders.WEIGHTS
        weights.write_bytes(struct.pack("<Q", len(text)) + text)
        (refusal,) = refused_cheaply(read_checkpoint, tmp_path)
        assert refusal.where == str(weights)
