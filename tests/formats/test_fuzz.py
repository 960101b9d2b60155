"""Whatever a folder holds, `read_checkpoint` returns heads that fit together or refuses it."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from tests.support import folders
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, INDEX_FILE, read_checkpoint
from vllm_lmtp.formats.tensors import required_tensors

pytestmark = pytest.mark.timeout(120)
WEIGHTS = {"plain": save(folders.heads()), "reduced": save(folders.reduced())} | {
    kind: save(folders.heads() | folders.scorer(kind)) for kind in ("markov", "recurrent", "table")
}
CONFIGS = {"plain": folders.config(), "reduced": folders.reduced_config()} | {
    "markov": folders.config(scorer={"kind": "markov"}),
    "recurrent": folders.config(scorer={"kind": "recurrent"}),
    "table": folders.config(scorer={"kind": "table", "weight": 0.8}),
}
FORMS = st.sampled_from(sorted(WEIGHTS))


def config_bytes(form: str) -> bytes:
    return json.dumps(CONFIGS[form]).encode()


def header_end(form: str) -> int:
    return 8 + int(struct.unpack("<Q", WEIGHTS[form][:8])[0])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["lmtp", "F32", "BF16", "LMTPModel", folders.WEIGHTS, "../config.json"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)
kinds = st.sampled_from(["flip", "delete", "insert", "cut"])
edits = st.lists(st.tuples(kinds, st.floats(0, 1), st.binary(max_size=9)), min_size=1, max_size=4)


def edit(content: bytes, changes: list[tuple[str, float, bytes]], end: int | None = None) -> bytes:
    """Change bytes before `end`, at places given as fractions of it."""
    for kind, place, new in changes:
        at = int(place * (len(content) if end is None else min(end, len(content))))
        if kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + new + content[at:]
        else:
            content = content[:at] + (new if kind == "flip" else b"") + content[at + len(new) :]
    return content


def check(files: dict[str, bytes], stride: int | None = None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        try:
            found = read_checkpoint(folder, stride)
        except LMTPError:
            return
    assert 1 <= found.schedule.n_heads <= 64
    assert 1 <= found.schedule.stride <= 64
    assert 1 <= found.num_layers <= 64
    for tensor in required_tensors(found.schedule.n_heads):
        shape = found.tensors[tensor].shape
        assert set(shape) <= {found.hidden_size, found.output_rows}
        assert 0 not in shape
    assert 1 <= found.output_rows <= found.vocab_size
    assert (found.draft_vocab_size is None) == ("heads.d2t" not in found.tensors)
    assert (found.scorer is None) == (not any(n.startswith("scorer") for n in found.tensors))
    for name, info in found.tensors.items():
        if info.dtype == "I8" and name.startswith("heads"):
            assert found.tensors[name.replace("weight", "scale")].shape == info.shape[:1]


@pytest.mark.parametrize("form", sorted(WEIGHTS))
def test_the_folder_that_is_damaged_below_is_sound(form: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / CONFIG_FILE).write_bytes(config_bytes(form))
        (Path(name) / folders.WEIGHTS).write_bytes(WEIGHTS[form])
        assert read_checkpoint(Path(name)).schedule.n_heads == 2


@settings(max_examples=120, deadline=None)
@given(
    form=FORMS,
    changes=st.dictionaries(
        st.sampled_from([*folders.reduced_config(), "num_hidden_layers", "scorer"]), json_values
    ),
    removed=st.sets(st.sampled_from([*folders.reduced_config()]), max_size=2),
    stride=st.none() | st.integers(-1, 70),
)
def test_any_value_in_the_config(
    form: str, changes: dict[str, Any], removed: set[str], stride: int | None
) -> None:
    values = {k: v for k, v in (CONFIGS[form] | changes).items() if k not in removed}
    check({CONFIG_FILE: json.dumps(values).encode(), folders.WEIGHTS: WEIGHTS[form]}, stride)


@settings(max_examples=100, deadline=None)
@given(form=FORMS, changes=edits)
def test_any_bytes_in_the_config(form: str, changes: list[tuple[str, float, bytes]]) -> None:
    check({CONFIG_FILE: edit(config_bytes(form), changes), folders.WEIGHTS: WEIGHTS[form]})


@settings(max_examples=200, deadline=None)
@given(form=FORMS, changes=edits, anywhere=st.booleans())
def test_any_bytes_in_the_weights(
    form: str, changes: list[tuple[str, float, bytes]], anywhere: bool
) -> None:
    damaged = edit(WEIGHTS[form], changes, None if anywhere else header_end(form))
    check({CONFIG_FILE: config_bytes(form), folders.WEIGHTS: damaged})


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_entry_in_the_header(data: st.DataObject) -> None:
    form = data.draw(FORMS)
    header = json.loads(WEIGHTS[form][8 : header_end(form)])
    name = data.draw(st.sampled_from(sorted(header)))
    entry = header.pop(name)
    if data.draw(st.booleans()):
        entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(
            json_values | st.lists(st.integers(0, 2**65), max_size=4)
        )
    new_name = st.just(name) | st.text(max_size=10).map("heads.heads.{}.lm_head.weight".format)
    header[data.draw(new_name)] = entry
    text = json.dumps(header).encode()
    check(
        {
            CONFIG_FILE: config_bytes(form),
            folders.WEIGHTS: struct.pack("<Q", len(text))
            + text
            + WEIGHTS[form][header_end(form) :],
        }
    )


@settings(max_examples=100, deadline=None)
@given(index=json_values | st.fixed_dictionaries({"weight_map": json_values}))
def test_any_index(index: object) -> None:
    content = json.dumps(index).encode()
    check(
        {CONFIG_FILE: config_bytes("plain"), folders.WEIGHTS: WEIGHTS["plain"]}
        | {INDEX_FILE: content}
    )


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200), size=st.none() | st.integers(0, 2**64 - 1))
def test_any_bytes_as_a_weight_file(content: bytes, size: int | None) -> None:
    length = b"" if size is None else struct.pack("<Q", size)
    check({CONFIG_FILE: config_bytes("plain"), folders.WEIGHTS: length + content})
