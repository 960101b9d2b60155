"""Export: the backbone, bit for bit, as a model that knows nothing of heads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.chain.target import make_chain, save_chain
from tests.support.random_models import (
    EMBEDDED,
    change_config,
    config_of,
    fields,
    logits_of,
    random_model,
    save_stage1,
    succeed,
    tensors_of,
    write_tensors,
)
from vllm_lmtp.training.model.layout import round_to_bfloat16, write_stage1
from vllm_lmtp.training.settings.stages import HeadsConfig


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("model_type", "tied"), [("llama", False), ("qwen2", True)])
def test_logits_are_those_of_the_backbone(
    model_type: str, tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    stage1 = save_stage1(tmp_path / "stage1", random_model(model_type, tied), dtype=dtype, shards=3)
    succeed("export", stage1, tmp_path / "plain")
    assert torch.equal(logits_of(tmp_path / "plain"), logits_of(stage1))


def test_the_folder_is_a_plain_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage1 = save_stage1(tmp_path / "stage1", random_model("qwen2", tied=True))
    succeed("export", stage1, tmp_path / "plain", "--json")
    report = json.loads(capfd.readouterr().out)
    assert (report["dropped_heads"], report["output"]) == (2, str(tmp_path / "plain"))
    config = config_of(tmp_path / "plain")
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    gone = set(config_of(stage1)) - set(config)
    assert gone == {"n_head", "skip_token", "head_type", "head_num_layers", "model_name"}
    names = set(tensors_of(tmp_path / "plain"))
    assert not any(name.startswith("heads.") for name in names)
    assert "lm_head.weight" not in names  # tied
    assert report["tensors"] == len(names)
    _, loading = AutoModelForCausalLM.from_pretrained(
        str(tmp_path / "plain"), output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    files = {path.name for path in (tmp_path / "plain").iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "lmtp_provenance.json"}
    (step,) = json.loads((tmp_path / "plain" / "lmtp_provenance.json").read_text())["steps"]
    assert (step["tool"], step["inputs"]) == ("vllm-lmtp export", ["stage1"])


def test_the_embedded_checkpoint_and_the_chain(tmp_path: Path) -> None:
    succeed("export", EMBEDDED, tmp_path / "tiny")
    assert torch.equal(logits_of(tmp_path / "tiny"), logits_of(EMBEDDED))
    assert (tmp_path / "tiny" / "generation_config.json").is_file()
    chain = make_chain(2, 2)
    succeed("export", save_chain(chain, tmp_path / "chain"), tmp_path / "plain")
    told = logits_of(tmp_path / "plain")[0].argmax(dim=-1)
    assert told.tolist() == [chain.successor[token] for token in range(1, 33)]


def test_bad_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chain, out = make_chain(2, 2), tmp_path / "out"
    plain = save_chain(chain, tmp_path / "plain", "plain")
    heads = save_chain(chain, tmp_path / "heads", "heads")
    assert fields(capfd, "export", tmp_path / "nothing", out) == {"path"}
    assert fields(capfd, "export", plain, out) == {"heads.*"}
    assert fields(capfd, "export", heads, out) == {"layout"}
    unknown = save_stage1(tmp_path / "unknown", model_type="klingon")
    assert fields(capfd, "export", unknown, out) == {"model_type"}
    untyped = save_stage1(tmp_path / "untyped", model_type=None)
    assert fields(capfd, "export", untyped, out) == {"model_type"}
    tied = save_stage1(tmp_path / "tied", tie_word_embeddings=True)
    assert fields(capfd, "export", tied, out) == {"tie_word_embeddings"}
    assert not out.exists()


def test_a_stale_or_incomplete_index_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage1 = save_stage1(tmp_path / "stage1", shards=2)
    index = "model.safetensors.index.json"
    weight_map = json.loads((stage1 / index).read_text())["weight_map"]
    change_config(
        stage1, index, weight_map=weight_map | {"model.extra": weight_map["lm_head.weight"]}
    )
    assert fields(capfd, "export", stage1, tmp_path / "out") == {"model.extra"}


def test_a_missing_stride_does_not_matter(tmp_path: Path) -> None:
    stage1 = save_stage1(tmp_path / "stage1")
    change_config(stage1, skip_token=...)
    succeed("export", stage1, tmp_path / "out")


def test_other_dtypes_and_scalars_pass_through(tmp_path: Path) -> None:
    stage1 = save_stage1(tmp_path / "stage1")
    more = {
        "model.scale": torch.tensor(0.5),
        "model.packed": torch.arange(7, dtype=torch.uint8),
        "model.f8": torch.ones(3, 5).to(torch.float8_e4m3fn),
        "model.flag": torch.tensor([True, False]),
        "model.count": torch.tensor([1, 2]),
    }
    write_tensors(stage1, tensors_of(stage1) | more)
    succeed("export", stage1, tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    for name, tensor in more.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].float(), tensor.float())


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_stage_1_folder_without_its_heads_is_plain_transformers(
    tied: bool, tmp_path: Path
) -> None:
    """What training saves: drop `heads.*` and any loader finds the backbone, whole and alone."""
    model = random_model(tied=tied)
    heads = model.heads
    del model.heads
    round_to_bfloat16(model)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    folder = tmp_path / "stage1"
    folder.mkdir()
    write_stage1(folder, model, heads, HeadsConfig(n_head=2, skip_token=2), tokenizer, "base")
    tensors = tensors_of(folder)
    kept = {name: t for name, t in tensors.items() if not name.startswith("heads.")}
    assert len(tensors) - len(kept) == 2 * 3
    write_tensors(folder, kept)
    loaded, report = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokens = torch.arange(1, 33).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
