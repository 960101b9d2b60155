"""GGUF files: only the one whose hash is known is ever read, and a hostile one would be refused."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gguf")

from tests.security.limits import no_hang
from vllm_lmtp.checkpoints import gguf as gguf_tool
from vllm_lmtp.checkpoints.names import PACKAGED
from vllm_lmtp.checkpoints.packaged import Packaged, prepare
from vllm_lmtp.errors import LMTPError

HUGE = 2**60
KEY = struct.pack("<Q", 20) + b"general.architecture"
HOSTILE = {
    "nothing": b"",
    "tensors": struct.pack("<QQ", HUGE, 0),
    "values": struct.pack("<QQ", 0, HUGE),
    "a key": struct.pack("<QQQ", 0, 1, HUGE) + b"abc",
    "a string": struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IQ", 8, HUGE) + b"abc",
    "an array": struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQ", 9, 4, HUGE) + b"abc",
    "an array of strings": struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQ", 9, 8, HUGE),
    "an array of arrays": struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQ", 9, 9, HUGE),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=list(HOSTILE))
@pytest.mark.parametrize("version", [3, 2**31])
def test_hostile_counts(tmp_path: Path, body: bytes, version: int) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<I", version) + body + b"\0" * 64)
    with no_hang(30), pytest.raises(LMTPError) as error:
        gguf_tool.write_model(file, tmp_path / "out", "</s>")
    (refusal,) = error.value.refusals
    assert refusal.where == str(file)
    assert not (tmp_path / "out").exists()


PARTS = [
    pytest.param(model, number, id=f"{name}, part {number}")
    for name, model in PACKAGED.items()
    for number in range(len(model.parts))
]


@pytest.mark.parametrize(("model", "number"), PARTS)
def test_another_file_than_the_known_one_is_not_read(
    model: Packaged, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user might have put it where the package is looked for."""

    def read(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(gguf_tool, "write_model", read)
    cache = tmp_path / "cache"
    cache.mkdir()
    part = model.parts[number]
    model = replace(model, parts=(part,))  # those before it are as they should be
    with zipfile.ZipFile(cache / part.wheel.file, "w") as archive:
        archive.writestr(part.member, b"GGUF" + HOSTILE["tensors"])
    with pytest.raises(LMTPError) as error:
        prepare(model, cache)
    (refusal,) = error.value.refusals
    assert (refusal.field, refusal.expected) == ("sha256", part.wheel.sha256)
