"""Writing folders: never over an input, never half, never at the cost of what was there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.faults.disk import full_beyond
from tests.support.random_models import (
    assert_same_tensors,
    config_of,
    fields,
    refusals,
    save_stage1,
    succeed,
    tensors_of,
)
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats import files
from vllm_lmtp.formats.files import fetch, read_weights
from vllm_lmtp.tools.folders import save


def test_an_output_that_is_there_needs_overwrite(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage1, out = save_stage1(tmp_path / "stage1"), tmp_path / "out"
    succeed("export", stage1, out)
    (out / "mine.txt").write_text("mine")
    (refusal,) = refusals(capfd, "export", stage1, out)
    assert "--overwrite" in refusal["remedy"]
    assert (out / "mine.txt").exists()
    succeed("export", stage1, out, "--overwrite")
    assert not (out / "mine.txt").exists()


def test_overwrite_replaces_models_only_and_never_an_input(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage1 = save_stage1(tmp_path / "in" / "stage1")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    (tmp_path / "file").write_text("file")
    (tmp_path / "link").symlink_to(stage1)
    for out in ("photos", "file", "in/stage1", "in", "link"):
        words = ("export", stage1, tmp_path / out, "--overwrite")
        assert fields(capfd, *words) == {"output"}
    assert (tmp_path / "photos" / "cat.jpg").exists()
    assert tensors_of(stage1)


def test_a_full_disk_leaves_the_previous_folder_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage1, out = save_stage1(tmp_path / "stage1"), tmp_path / "out"
    succeed("export", stage1, out)
    files_before = {path.name: path.read_bytes() for path in out.iterdir()}
    with full_beyond(30_000):
        (refusal,) = refusals(capfd, "export", stage1, out, "--overwrite")
    assert "cannot be written" in refusal["found"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files_before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "stage1"]
    with full_beyond(30_000):
        refusals(capfd, "export", stage1, tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


def test_shards_and_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage1 = save_stage1(tmp_path / "stage1")
    monkeypatch.setattr(save, "SHARD_BYTES", 20_000)
    succeed("convert", "--to", "heads", stage1, tmp_path / "heads")
    index = json.loads((tmp_path / "heads" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 2
    heads = {n: t for n, t in tensors_of(stage1).items() if n.startswith("heads.")}
    assert index["weight_map"].keys() == heads.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in heads.values())
    found = tensors_of(tmp_path / "heads")
    assert all(torch.equal(found[name], tensor) for name, tensor in heads.items())


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage1 = save_stage1(tmp_path / "stage1", shards=2)
    reads: list[str] = []

    def counted(file: Path, name: str) -> torch.Tensor:
        reads.append(name)
        return original(file, name)

    original = files.read_tensor
    monkeypatch.setattr(files, "read_tensor", counted)
    succeed("convert", "--to", "heads", stage1, tmp_path / "heads")
    assert sorted(reads) == sorted(tensors_of(tmp_path / "heads"))  # each once, no backbone


def test_a_second_copy_of_a_tensor_is_refused(tmp_path: Path) -> None:
    stage1 = save_stage1(tmp_path / "stage1")
    (stage1 / "stale.safetensors").write_bytes((stage1 / "model.safetensors").read_bytes())
    with pytest.raises(LMTPError, match="second copy"):
        read_weights(stage1)


def test_a_shard_that_vanishes_while_it_is_read(tmp_path: Path) -> None:
    weights = read_weights(save_stage1(tmp_path / "stage1"))
    (tmp_path / "stage1" / "model.safetensors").unlink()
    with pytest.raises(LMTPError, match="unreadable"):
        weights.read("lm_head.weight")


def test_a_hugging_face_id_brings_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[list[str]] = []

    def download(model: str, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fetch("somebody/base") == tmp_path
    assert {"tokenizer.json", "*.safetensors", "config.json"} <= set(asked[-1])
    assert not any(pattern.endswith(".py") for pattern in asked[-1])


def test_provenance_names_every_step(tmp_path: Path) -> None:
    stage1 = save_stage1(tmp_path / "stage1")
    succeed("export", stage1, tmp_path / "plain")
    succeed("convert", "--to", "heads", stage1, tmp_path / "heads")
    again = tmp_path / "again"
    succeed("convert", "--to", "stage1", tmp_path / "heads", again, "--target", tmp_path / "plain")
    steps = json.loads((again / "lmtp_provenance.json").read_text())["steps"]
    assert [step["tool"] for step in steps] == [
        "vllm-lmtp convert --to heads",
        "vllm-lmtp export",
        "vllm-lmtp convert --to stage1",
    ]
    assert str(tmp_path) not in (again / "lmtp_provenance.json").read_text()
    assert_same_tensors(again, stage1)
    assert config_of(again) == config_of(stage1)
