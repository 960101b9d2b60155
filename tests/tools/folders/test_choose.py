"""Convert: some of the heads. Each still predicts what its new place says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.chain.target import make_chain, save_chain
from tests.support.random_models import (
    EMBEDDED,
    change_config,
    config_of,
    fields,
    succeed,
    tensors_of,
)
from tests.support.reduced_heads import reduce
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.tools.fit.agreement import find_stride, measure
from vllm_lmtp.tools.fit.backbone import Backbone


@pytest.mark.parametrize(
    ("words", "heads", "stride"),
    [(["--every", "2"], 3, 2), (["--first", "3"], 3, 1), (["--every", "2", "--first", "1"], 1, 2)],
)
def test_each_head_predicts_its_new_offset(
    words: list[str], heads: int, stride: int, tmp_path: Path
) -> None:
    adjacent = save_chain(make_chain(6, 1, wrong=0), tmp_path / "adjacent", "heads")
    succeed("convert", "--to", "heads", adjacent, tmp_path / "out", *words)
    checkpoint = read_checkpoint(tmp_path / "out")
    assert checkpoint.schedule == LeapSchedule(heads, stride)
    backbone = Backbone(save_chain(make_chain(1, 1), tmp_path / "plain", "plain"))
    found = measure(checkpoint, backbone.read([torch.tensor(make_chain(1, 1).walk(3, 200))]))
    assert find_stride(found).stride == stride
    for head in found:
        assert head.rates[checkpoint.schedule.offset_of_head(head.head) - 1] == 1.0


def test_a_draft_vocabulary_stays_and_a_scorer_does_not(tmp_path: Path) -> None:
    small = reduce(EMBEDDED, tmp_path / "small", keep=list(range(3, 900, 7)), int8=True)
    succeed("convert", "--to", "heads", small, tmp_path / "out", "--every", "3")
    before, after = tensors_of(small), tensors_of(tmp_path / "out")
    assert torch.equal(after["heads.d2t"], before["heads.d2t"])
    for part in ("lm_head.weight", "lm_head.scale", "resblock.0.l_proj.bias"):
        assert torch.equal(after[f"heads.heads.0.{part}"], before[f"heads.heads.2.{part}"])
    config = config_of(tmp_path / "out")
    assert (config["n_head"], config["skip_token"]) == (1, 6)
    assert config["draft_vocab_size"] == len(before["heads.d2t"])
    assert "scorer" in config_of(EMBEDDED)
    succeed("convert", "--to", "heads", EMBEDDED, tmp_path / "unscored", "--first", "2")
    assert "scorer" not in config_of(tmp_path / "unscored")
    assert not any(name.startswith("scorer.") for name in tensors_of(tmp_path / "unscored"))
    steps = json.loads((tmp_path / "unscored" / "lmtp_provenance.json").read_text())["steps"]
    assert steps[-1]["from_heads"] == [0, 1]


def test_bad_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    heads, out = save_chain(make_chain(3, 2), tmp_path / "heads", "heads"), tmp_path / "out"
    words = ("convert", "--to", "heads", heads, out)
    assert fields(capfd, *words, "--every", "4") == {"n_head"}
    assert fields(capfd, *words, "--first", "4") == {"n_head"}
    assert fields(capfd, *words, "--every", "2", "--first", "2") == {"n_head"}
    change_config(heads, skip_token=40)
    assert fields(capfd, *words, "--every", "2") == {"skip_token"}
    assert not out.exists()
