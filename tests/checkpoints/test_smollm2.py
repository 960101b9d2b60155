"""The real chat model's folder: fetched with pip, checked, converted once, whole or not there."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.chain.target import make_chain, save_chain
from tests.support.gguf_file import SPECIAL, stand_in, write_gguf
from tests.support.random_models import config_of, tensors_of
from vllm_lmtp.checkpoints import gguf as gguf_tool
from vllm_lmtp.checkpoints import packaged, smollm2
from vllm_lmtp.checkpoints.package import Wheel
from vllm_lmtp.errors import LMTPError, Refusal


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "stand-in.gguf"
    write_gguf(file)
    return file


@pytest.fixture
def index(tmp_path: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes its wheels from, and nothing else; it holds a stand-in."""
    folder = tmp_path / "index"
    monkeypatch.setattr(smollm2, "MODEL", stand_in(folder, gguf_file))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel() -> Wheel:
    """The one that is meant."""
    return smollm2.MODEL.parts[0].wheel


def refused(cache: Path) -> Refusal:
    """The one refusal of a preparation that must leave nothing behind."""
    with pytest.raises(LMTPError) as caught:
        packaged.prepare(smollm2.MODEL, cache)
    (refusal,) = caught.value.refusals
    assert {path.name for path in cache.iterdir()} <= {".lock", wheel().file}
    return refusal


def test_an_ordinary_folder_of_dequantised_weights(
    index: Path, tmp_path: Path, gguf_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    target = packaged.prepare(smollm2.MODEL, cache)
    assert capfd.readouterr().out == ""
    assert {path.name for path in cache.iterdir()} == {".lock", target.name}  # no wheel, no rest
    assert "dequantised" in target.name
    assert "not the original weights" in (target / "README.md").read_text()
    (step,) = json.loads((target / "lmtp_provenance.json").read_text())["steps"]
    assert step["wheel_sha256"] == [wheel().sha256]
    assert "Q4_1, dequantised" in step["weights"]
    assert str(tmp_path) not in "".join(f.read_text() for f in target.glob("*.json"))

    config = config_of(target)
    assert (config["architectures"], config["eos_token_id"]) == (["LlamaForCausalLM"], 2)
    assert "quantization_config" not in config
    found = tensors_of(target)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file).tensors}
    up = stored["blk.1.ffn_up.weight"]
    expected = torch.from_numpy(gguf.dequantize(up.data, up.tensor_type)).bfloat16()
    assert torch.equal(found["model.layers.1.mlp.up_proj.weight"], expected)

    tokenizer = AutoTokenizer.from_pretrained(str(target))
    assert tokenizer.eos_token == smollm2.MODEL.eos_token
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert ids == "<|im_start|>user\nhello<|im_end|>\n"
    model, report = AutoModelForCausalLM.from_pretrained(str(target), output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.generation_config.eos_token_id == 2


def test_a_second_call_fetches_nothing(index: Path, tmp_path: Path) -> None:
    target = packaged.prepare(smollm2.MODEL, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    (index / wheel().file).unlink()
    assert packaged.prepare(smollm2.MODEL, tmp_path / "cache") == target
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == before


def test_a_folder_of_an_earlier_version_is_not_made_again(index: Path, tmp_path: Path) -> None:
    """It noted one hash where there is a list now."""
    cache = tmp_path / "cache"
    target = packaged.prepare(smollm2.MODEL, cache)
    note = {"steps": [{"wheel_sha256": wheel().sha256}]}
    (target / "lmtp_provenance.json").write_text(json.dumps(note))
    (index / wheel().file).unlink()
    assert packaged.prepare(smollm2.MODEL, cache) == target


def test_a_wheel_that_the_user_brought(index: Path, tmp_path: Path) -> None:
    """The remedy on a machine without a network; the file stays the user's."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (index / wheel().file).rename(cache / wheel().file)
    assert (packaged.prepare(smollm2.MODEL, cache) / "config.json").is_file()
    assert (cache / wheel().file).is_file()


def test_no_package_to_be_had(index: Path, tmp_path: Path) -> None:
    (index / wheel().file).unlink()
    refusal = refused(tmp_path / "cache")
    assert (refusal.where, refusal.field) == (wheel().requirement, "package")
    assert "No matching distribution" in refusal.found
    assert str(tmp_path / "cache" / wheel().file) in refusal.remedy


def test_no_pip(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "python: No module named pip\n"
    done = subprocess.CompletedProcess([], 1, stdout="", stderr=said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert refused(tmp_path / "cache").found == said.strip()


def test_another_file_under_the_same_name(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, (part,) = wheel().sha256, smollm2.MODEL.parts
    pinned = replace(part, wheel=replace(part.wheel, sha256="0" * 64))
    monkeypatch.setattr(smollm2, "MODEL", replace(smollm2.MODEL, parts=(pinned,)))
    refusal = refused(tmp_path / "cache")
    assert (refusal.field, refusal.found, refusal.expected) == ("sha256", found, "0" * 64)


def test_a_wheel_without_the_weights(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "MODEL", stand_in(index, None))
    assert refused(tmp_path / "cache").field == smollm2.MODEL.parts[0].member


def test_a_model_that_cannot_end_its_answers(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "other.gguf"
    write_gguf(file, [*SPECIAL[:2], "<|other|>"])
    monkeypatch.setattr(smollm2, "MODEL", stand_in(index, file))
    assert smollm2.MODEL.eos_token in refused(tmp_path / "cache").found


def test_no_gguf_reader(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tool, "find_spec", lambda _: None)
    assert refused(tmp_path / "cache").remedy == "pip install gguf"


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["unpack", "write_json"])
def test_a_full_disk(
    place: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, place, _full)
    refusal = refused(tmp_path / "cache")
    assert refusal.found == "cannot be written (No space left on device)"
    assert "XDG_CACHE_HOME" in refusal.remedy


def test_heads_that_are_not_there(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "HEADS", tmp_path / "heads")
    with pytest.raises(LMTPError, match="heads") as caught:
        smollm2.prepare(tmp_path / "cache")
    assert caught.value.refusals[0].where == str(tmp_path / "heads")
    assert not (tmp_path / "cache").exists()  # nothing is fetched in vain
    save_chain(make_chain(1, 1), tmp_path / "heads", "heads")
    folders = smollm2.prepare(tmp_path / "cache")
    assert folders.heads == tmp_path / "heads"
    assert (folders.target / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/somewhere", lambda home: Path("/somewhere/vllm-lmtp")),
        ("relative", lambda home: home / ".cache" / "vllm-lmtp"),
        (None, lambda home: home / ".cache" / "vllm-lmtp"),
    ],
)
def test_the_cache_folder(
    value: str | None,
    expected: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert packaged.cache_folder() == expected(tmp_path)


@pytest.mark.slow
def test_the_real_package(tmp_path: Path) -> None:
    target = packaged.prepare(smollm2.MODEL, tmp_path)
    config = config_of(target)
    assert (config["hidden_size"], config["vocab_size"], config["eos_token_id"]) == (576, 49152, 2)
    tokenizer = AutoTokenizer.from_pretrained(str(target))
    assert len(tokenizer("a")["input_ids"]) == 1  # its file states no BOS before a text
    turn = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model = AutoModelForCausalLM.from_pretrained(str(target))
    with torch.no_grad():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=24)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Paris" in answer
