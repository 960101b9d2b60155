"""Convert: the same heads in another folder, and Medusa's heads under our names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.chain.target import VOCAB as CHAIN_VOCAB
from tests.support.chain.target import make_chain, save_chain
from tests.support.medusa_heads import save_medusa
from tests.support.random_models import (
    EMBEDDED,
    assert_same_tensors,
    change_config,
    config_of,
    fields,
    random_model,
    refusals,
    save_stage1,
    succeed,
    tensors_of,
    write_tensors,
)
from tests.support.reduced_heads import reduce
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.tools.fit.agreement import find_stride, measure
from vllm_lmtp.tools.fit.backbone import Backbone


@pytest.mark.parametrize("kind", ["untied, sharded", "tied", "chain", "reduced", "embedded"])
def test_round_trips_are_bit_equal(kind: str, tmp_path: Path) -> None:
    if kind == "embedded":
        stage1 = EMBEDDED
    elif kind == "chain":
        stage1 = save_chain(make_chain(3, 2), tmp_path / "stage1")
    elif kind == "reduced":
        stage1 = reduce(EMBEDDED, tmp_path / "stage1", keep=list(range(3, 900, 7)), int8=True)
    elif kind == "tied":
        model = random_model("qwen2", tied=True)
        stage1 = save_stage1(tmp_path / "stage1", model, dtype=torch.bfloat16)
    else:
        stage1 = save_stage1(tmp_path / "stage1", shards=3)
    heads, plain, again = (tmp_path / name for name in ("heads", "plain", "again"))
    succeed("convert", "--to", "heads", stage1, heads)
    succeed("export", stage1, plain)
    succeed("convert", "--to", "stage1", heads, again, "--target", plain)
    assert_same_tensors(again, stage1)
    if kind != "chain":  # which has no model_name
        assert config_of(again) == config_of(stage1)
    before, after = read_checkpoint(stage1), read_checkpoint(again)
    assert (after.schedule, after.stage1) == (before.schedule, True)
    alone = read_checkpoint(heads)
    assert (alone.schedule, alone.stage1) == (before.schedule, False)
    assert alone.draft_vocab_size == after.draft_vocab_size == before.draft_vocab_size
    assert "draft_vocab_size" not in config_of(plain)
    succeed("convert", "--to", "heads", again, tmp_path / "heads2")
    assert_same_tensors(tmp_path / "heads2", heads)


def test_the_fields_of_a_heads_only_folder(tmp_path: Path) -> None:
    stage1 = save_stage1(tmp_path / "stage1", stride=3)
    succeed("convert", "--to", "heads", stage1, tmp_path / "heads")
    assert config_of(tmp_path / "heads") == {
        "architectures": ["LMTPModel"],
        "n_head": 2,
        "head_num_layers": 1,
        "head_type": "lmtp",
        "skip_token": 3,
        "hidden_size": 32,
        "vocab_size": 61,
        "model_type": "llama",
        "model_name": "somebody/base",
        "speculators_model_type": "lmtp",
        "speculators_config": {
            "algorithm": "lmtp",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 6}],
            "verifier": {"name_or_path": "../stage1", "architectures": ["LlamaForCausalLM"]},
        },
        "transformer_layer_config": {},
    }
    files = {path.name for path in (tmp_path / "heads").iterdir()}
    assert files == {"config.json", "model.safetensors", "lmtp_provenance.json"}


def test_a_gemma_folder_gets_its_head_count(tmp_path: Path) -> None:
    """The reference's Gemma 3 folders have the heads, but neither n_head nor head_type."""
    stage1 = save_stage1(tmp_path / "stage1")
    change_config(stage1, n_head=..., head_type=..., head_num_layers=...)
    succeed("convert", "--to", "heads", stage1, tmp_path / "heads")
    config = config_of(tmp_path / "heads")
    assert (config["n_head"], config["head_num_layers"], config["head_type"]) == (2, 1, "lmtp")


def test_bad_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chain, out = make_chain(2, 2), tmp_path / "out"
    stage1 = save_chain(chain, tmp_path / "stage1")
    plain = save_chain(chain, tmp_path / "plain", "plain")
    heads = save_chain(chain, tmp_path / "heads", "heads")
    nothing = tmp_path / "nothing"
    assert fields(capfd, "convert", "--to", "heads", nothing, out) == {"path"}
    none = {"heads.*", "skip_token"}
    assert fields(capfd, "convert", "--to", "heads", plain, out) == none
    assert fields(capfd, "convert", "--to", "heads", heads, out) == {"layout"}
    joined = ("convert", "--to", "stage1")
    assert fields(capfd, *joined, nothing, out, "--target", plain) == {"path"}
    assert fields(capfd, *joined, heads, out, "--target", nothing) == {"path"}
    assert fields(capfd, *joined, plain, out, "--target", plain) == none
    parted = ("convert", "--to", "heads", "--overwrite")
    assert fields(capfd, *parted, heads, plain, "--target", plain) == {"output"}
    assert fields(capfd, *joined, stage1, out, "--target", plain) == {"layout"}
    (refusal,) = refusals(capfd, *joined, heads, out, "--target", stage1)
    assert "leap heads already" in refusal["found"]
    change_config(plain, vocab_size=CHAIN_VOCAB + 1, hidden_size=64)
    found = fields(capfd, *joined, heads, out, "--target", plain)
    assert found == {"vocab_size", "hidden_size"}
    change_config(plain, architectures=["Qwen2ForSequenceClassification"])
    assert "architectures" in fields(capfd, *joined, heads, out, "--target", plain)
    change_config(heads, skip_token=...)
    assert fields(capfd, *joined, heads, out, "--target", plain) == {"skip_token"}
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["IN", "OUT"],
        ["--to", "heads", "IN", "OUT", "--target", "BASE", "--first", "2"],
        ["--to", "heads", "IN", "OUT", "--alone"],
        ["--to", "stage1", "IN", "OUT"],
        ["--to", "stage1", "IN", "OUT", "--target", "BASE", "--every", "2"],
        ["--from-medusa", "IN", "OUT", "--first", "2"],
        ["--to", "heads", "--from-medusa", "IN", "OUT"],
        ["--from-medusa", "IN", "OUT", "--every", "0"],
    ],
)
def test_words_that_do_not_go_together(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        succeed("convert", *words)
    assert stop.value.code == 2


@pytest.mark.parametrize(("every", "heads"), [(None, 5), (2, 2), (3, 1)])
def test_medusa_heads_predict_what_their_place_says(
    every: int | None, heads: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Measured: after the conversion each head agrees with its own offset and no other."""
    medusa, out = save_medusa(make_chain(5, 1, wrong=0), tmp_path / "medusa"), tmp_path / "out"
    words = [] if every is None else ["--every", str(every)]
    succeed("convert", "--from-medusa", medusa, out, *words, "--json")
    stride = every or 1
    assert json.loads(capfd.readouterr().out)["heads"] == heads
    checkpoint = read_checkpoint(out)
    assert checkpoint.schedule == LeapSchedule(heads, stride)
    assert config_of(out)["model_name"] == "somebody/base"
    backbone = Backbone(save_chain(make_chain(1, 1), tmp_path / "plain", "plain"))
    cycle = make_chain(1, 1).walk(3, 200)
    found = measure(checkpoint, backbone.read([torch.tensor(cycle)]))
    assert find_stride(found).stride == stride
    for head in found:
        assert head.rates[checkpoint.schedule.offset_of_head(head.head) - 1] == 1.0


def test_medusa_weights_keep_their_bits(tmp_path: Path) -> None:
    medusa = save_medusa(make_chain(4, 1, wrong=0), tmp_path / "medusa")
    succeed("convert", "--from-medusa", medusa, tmp_path / "out", "--every", "2")
    theirs, ours = tensors_of(medusa), tensors_of(tmp_path / "out")
    assert torch.equal(ours["heads.heads.0.lm_head.weight"], theirs["1.1.weight"])
    assert torch.equal(ours["heads.heads.1.lm_head.weight"], theirs["3.1.weight"])
    block = "heads.heads.1.resblock.0.l_proj"
    assert torch.equal(ours[f"{block}.weight"], theirs["3.0.linear.weight"])
    assert torch.equal(ours[f"{block}.bias"], theirs["3.0.linear.bias"])
    assert len(ours) == 6


def test_bad_medusa_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    medusa, out = save_medusa(make_chain(2, 1, wrong=0), tmp_path / "medusa"), tmp_path / "out"
    words = ("convert", "--from-medusa", medusa, out)
    assert fields(capfd, *words, "--every", "3") == {"medusa_num_heads"}
    change_config(medusa, medusa_num_layers=2)
    assert fields(capfd, *words) == {"medusa_num_layers"}
    change_config(medusa, medusa_num_layers=..., medusa_num_heads="two")
    assert fields(capfd, *words) == {"medusa_num_layers", "medusa_num_heads"}
    change_config(medusa, medusa_num_layers=1, medusa_num_heads=3)
    assert fields(capfd, *words) == {"2.0.linear.weight", "2.0.linear.bias", "2.1.weight"}
    change_config(medusa, medusa_num_heads=1)
    assert fields(capfd, *words) == {"1.0.linear.weight", "1.0.linear.bias", "1.1.weight"}
    change_config(medusa, medusa_num_heads=2)
    write_tensors(medusa, tensors_of(medusa) | {"1.0.linear.bias": torch.zeros(3)})
    assert fields(capfd, *words) == {"1.0.linear.bias"}
    (medusa / "model.safetensors").rename(medusa / "medusa_lm_head.pt")
    (refusal,) = refusals(capfd, *words)
    assert "never opened" in refusal["found"]
    stage1 = save_chain(make_chain(2, 2), tmp_path / "stage1")
    assert "medusa_num_layers" in fields(capfd, "convert", "--from-medusa", stage1, out)
    assert not out.exists()
