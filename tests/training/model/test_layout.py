"""Which models heads can be trained for, and what a stage-1 folder keeps of its backbone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.support.training.tiny_runs import save_backbone  # noqa: E402
from vllm_lmtp.errors import LMTPError  # noqa: E402
from vllm_lmtp.training.data.tokenizer import load_tokenizer  # noqa: E402
from vllm_lmtp.training.model.heads import LeapHeads  # noqa: E402
from vllm_lmtp.training.model.layout import (  # noqa: E402
    check_layout,
    load_backbone,
    write_stage1,
)
from vllm_lmtp.training.settings.stages import HeadsConfig  # noqa: E402


def test_a_model_whose_layers_are_elsewhere_is_refused_before_it_loads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    for read in (check_layout, load_backbone):
        with pytest.raises(LMTPError) as caught:
            read(tmp_path)
        (refusal,) = caught.value.refusals
        assert (refusal.field, refusal.found) == (
            "model_type",
            "GPT2LMHeadModel, whose layers are its `transformer`",
        )


def test_a_stage_1_folder_ends_where_its_model_does(tmp_path: Path) -> None:
    """A chat model may end a turn with tokens that its tokenizer does not state."""
    folder = save_backbone(tmp_path / "backbone")
    model, tokenizer = load_backbone(folder), load_tokenizer(folder)
    model.generation_config.eos_token_id = [1, 5]
    model.generation_config.pad_token_id = None
    heads = LeapHeads(2, model.lm_head.weight.detach())
    (tmp_path / "made").mkdir()
    write_stage1(tmp_path / "made", model, heads, HeadsConfig(2, 2), tokenizer, "a/b")
    stated = json.loads((tmp_path / "made" / "generation_config.json").read_text())
    assert stated["eos_token_id"] == [1, 5]
    assert stated["pad_token_id"] == tokenizer.pad_token_id
