"""Merge: equal to the adapter applied in memory, and no adapter that does not belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.adapters import FILE, TARGETS, change_tensors, save_adapter, save_damaged
from tests.support.chain.target import make_chain, save_chain
from tests.support.random_models import (
    assert_same_tensors,
    change_config,
    config_of,
    fields,
    logits_of,
    random_model,
    refusals,
    save_stage1,
    succeed,
    tensors_of,
)
from vllm_lmtp.formats.checkpoint import read_checkpoint

L_PROJ = "base_model__model__heads__heads__0__resblock__0__l_proj"


@pytest.mark.parametrize(("model_type", "tied"), [("llama", False), ("qwen2", True)])
def test_equal_to_peft_in_memory(model_type: str, tied: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = random_model(model_type, tied)
    stage1 = save_stage1(tmp_path / "stage1", model, shards=2)
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=TARGETS, lora_dropout=0.0)
    adapted = peft.get_peft_model(model, config).eval()
    torch.manual_seed(9)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    tokens = torch.arange(1, 33).unsqueeze(0)
    with torch.no_grad():
        logits = adapted(tokens).logits
    succeed("merge", stage1, tmp_path / "adapter", tmp_path / "merged")
    in_memory = adapted.merge_and_unload().state_dict()
    found = tensors_of(tmp_path / "merged")
    changed = 0
    for name, tensor in tensors_of(stage1).items():
        if name in in_memory:  # a tied lm_head.weight may not be
            torch.testing.assert_close(found[name], in_memory[name], rtol=0, atol=1e-6)
        changed += not torch.equal(found[name], tensor)
    assert changed == 2 * 7 + 2
    torch.testing.assert_close(logits_of(tmp_path / "merged"), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_to_the_formula(
    dtype: torch.dtype, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage1 = save_stage1(tmp_path / "stage1", dtype=dtype)
    adapter = save_adapter(tmp_path / "adapter", stage1, rank=4, alpha=2)
    succeed("merge", stage1, adapter, tmp_path / "merged", "--json")
    report = json.loads(capfd.readouterr().out)
    assert (report["scale"], report["rank"]) == (0.5, 4)
    assert (report["adapted_in_backbone"], report["adapted_in_heads"]) == (14, 2)
    lora = load_file(adapter / FILE)
    found, before = tensors_of(tmp_path / "merged"), tensors_of(stage1)
    assert found.keys() == before.keys()
    used = 0
    for name, weight in before.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        expected = weight.double()
        if f"{prefix}A.weight" in lora:
            a, b = lora[f"{prefix}A.weight"].double(), lora[f"{prefix}B.weight"].double()
            expected = expected + 0.5 * (b @ a)
            used += 2
        assert found[name].dtype == dtype
        atol = 1e-6 if dtype == torch.float32 else 0.0
        rtol = 0.0 if dtype == torch.float32 else 2**-8
        torch.testing.assert_close(found[name].double(), expected, rtol=rtol, atol=atol)
    assert used == len(lora)
    assert config_of(tmp_path / "merged") == config_of(stage1)


def test_a_merged_chain_is_the_chain(tmp_path: Path) -> None:
    """A chain that is damaged by just what the adapter adds is whole again, bit for bit."""
    chain = save_chain(make_chain(2, 2), tmp_path / "chain")
    damaged, adapter = save_damaged(chain, tmp_path)
    assert not torch.equal(logits_of(damaged), logits_of(chain))
    succeed("merge", damaged, adapter, tmp_path / "merged")
    assert_same_tensors(tmp_path / "merged", chain)
    assert read_checkpoint(tmp_path / "merged").schedule == read_checkpoint(chain).schedule
    assert read_checkpoint(tmp_path / "merged").stage1


def test_only_some_layers_or_the_heads_alone(tmp_path: Path) -> None:
    stage1 = save_stage1(tmp_path / "stage1")
    adapter = save_adapter(tmp_path / "adapter", stage1, target_modules=r".*\.l_proj")
    backbone = {
        name.replace(".", "__"): None for name in load_file(adapter / FILE) if ".heads." not in name
    }
    change_tensors(adapter, **backbone)
    succeed("merge", stage1, adapter, tmp_path / "merged")
    found, before = tensors_of(tmp_path / "merged"), tensors_of(stage1)
    assert {n for n in found if not torch.equal(found[n], before[n])} == {
        f"heads.heads.{i}.resblock.0.l_proj.weight" for i in range(2)
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_rslora", True),
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"q_proj": 8}),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "pissa"),
        ("peft_type", "IA3"),
        ("a_setting_of_tomorrow", {"on": True}),
        ("r", 0),
        ("r", "4"),
        ("lora_alpha", None),
        ("target_modules", None),
        ("target_modules", "("),
    ],
)
def test_unsupported_features_are_named(
    field: str, value: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage1 = save_stage1(tmp_path / "stage1")
    adapter = save_adapter(tmp_path / "adapter", stage1, **{field: value})
    (refusal,) = refusals(capfd, "merge", stage1, adapter, tmp_path / "out")
    assert refusal["field"] == field
    assert refusal["where"] == str(adapter / "adapter_config.json")
    assert not (tmp_path / "out").exists()


def test_an_adapter_for_another_base(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage1 = save_stage1(tmp_path / "stage1")
    wider = save_stage1(tmp_path / "wider", random_model(hidden=64))
    adapter = save_adapter(tmp_path / "for_wider", wider)
    found = refusals(capfd, "merge", stage1, adapter, tmp_path / "out")
    assert {refusal["field"].rsplit(".", 2)[1] for refusal in found} == {"lora_A", "lora_B"}
    assert all("stage-1 folder it was trained on" in refusal["remedy"] for refusal in found)
    more = save_stage1(tmp_path / "more", random_model(n_heads=3))
    adapter = save_adapter(tmp_path / "for_more", more)
    absent = {"heads.heads.2.resblock.0.l_proj"}
    assert fields(capfd, "merge", stage1, adapter, tmp_path / "out") == absent
    # The other way round, one head would be left without what it was trained with.
    adapter = save_adapter(tmp_path / "for_fewer", stage1)
    assert fields(capfd, "merge", more, adapter, tmp_path / "out") == absent


def test_tensors_that_have_no_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage1, out = save_stage1(tmp_path / "stage1"), tmp_path / "out"
    lone = save_adapter(tmp_path / "lone", stage1)
    change_tensors(lone, **{f"{L_PROJ}__lora_B__weight": None})
    missing = "base_model.model.heads.heads.0.resblock.0.l_proj.lora_B.weight"
    assert fields(capfd, "merge", stage1, lone, out) == {missing}
    strange = save_adapter(tmp_path / "strange", stage1)
    name = "base_model.model.model.embed_tokens.lora_embedding_A"
    change_tensors(strange, **{name.replace(".", "__"): torch.ones(4, 61)})
    assert fields(capfd, "merge", stage1, strange, out) == {name}
    unnamed = save_adapter(tmp_path / "unnamed", stage1, target_modules=TARGETS[:-1])
    assert fields(capfd, "merge", stage1, unnamed, out) == {"target_modules"}
    other_rank = save_adapter(tmp_path / "other_rank", stage1, r=8)
    assert len(refusals(capfd, "merge", stage1, other_rank, out)) == 2 * 16
    wild = save_adapter(tmp_path / "wild", stage1)
    change_tensors(wild, **{f"{L_PROJ}__lora_A__weight": torch.full((4, 32), torch.nan)})
    assert fields(capfd, "merge", stage1, wild, out) == {"heads.heads.0.resblock.0.l_proj"}
    assert not out.exists()


def test_shared_and_quantised_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage1, out = save_stage1(tmp_path / "stage1", head_num_layers=2), tmp_path / "out"
    adapter = save_adapter(tmp_path / "adapter", stage1)
    assert fields(capfd, "merge", stage1, adapter, out) == {"heads.heads.0.resblock.0.l_proj"}
    change_config(stage1, head_num_layers=1, tie_word_embeddings=True)
    targets = [*TARGETS, "lm_head"]
    change_config(adapter, "adapter_config.json", target_modules=targets, exclude_modules=["x"])
    change_tensors(
        adapter,
        base_model__model__lm_head__lora_A__weight=torch.ones(4, 32),
        base_model__model__lm_head__lora_B__weight=torch.ones(61, 4),
    )
    assert fields(capfd, "merge", stage1, adapter, out) == {"lm_head"}
    change_config(stage1, quantization_config={"quant_method": "fp8"})
    assert fields(capfd, "merge", stage1, adapter, out) == {"quantization_config"}


def test_missing_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage1, out = save_stage1(tmp_path / "stage1"), tmp_path / "out"
    plain = save_chain(make_chain(1, 1), tmp_path / "plain", "plain")
    adapter = save_adapter(tmp_path / "adapter", stage1)
    assert fields(capfd, "merge", tmp_path / "nothing", adapter, out) == {"path"}
    assert fields(capfd, "merge", plain, adapter, out) == {"heads.*"}
    nothing = tmp_path / "nothing"
    assert fields(capfd, "merge", stage1, nothing, out) == {"adapter_config.json"}
    (adapter / FILE).rename(adapter / "adapter_model.bin")
    (refusal,) = refusals(capfd, "merge", stage1, adapter, out)
    assert "never opened" in refusal["found"]
    (adapter / "adapter_model.bin").rename(adapter / FILE)
    (adapter / "adapter_config.json").write_text("[1]")
    assert fields(capfd, "merge", stage1, adapter, out) == {"content"}
    (adapter / "adapter_config.json").write_text("{")
    assert fields(capfd, "merge", stage1, adapter, out) == {"content"}
