"""A stage-2 adapter is no checkpoint: the refusal is the command that makes one of it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.support.adapters import save_adapter
from tests.support.random_models import assert_same_tensors, change_config, save_stage1, succeed
from tests.support.refused import only_refusal
from vllm_lmtp.formats.checkpoint import read_checkpoint


def test_the_command_in_the_remedy_merges_it(tmp_path: Path) -> None:
    stage1 = save_stage1(tmp_path / "stage 1")  # a blank, to be quoted
    adapter = save_adapter(tmp_path / "adapter", stage1, base_model_name_or_path=str(stage1))
    refusal = only_refusal(adapter)
    assert (refusal.where, refusal.field) == (str(adapter), "adapter_config.json")
    _, _, rest = refusal.remedy.partition("first: ")
    merge, _, serve = rest.partition(" and then: ")
    words = shlex.split(merge)
    merged = f"{adapter}-merged"
    assert words == ["vllm-lmtp", "merge", str(stage1), str(adapter), merged]
    succeed(*words[1:])
    assert read_checkpoint(Path(merged)).stage1
    succeed("merge", stage1, adapter, tmp_path / "again")
    assert_same_tensors(Path(merged), tmp_path / "again")
    assert shlex.split(serve) == ["vllm", "serve", merged, "--speculative-config", "lmtp"]


@pytest.mark.parametrize("stated", [None, 3, "", "no file"])
def test_an_adapter_that_does_not_say_its_base(stated: object, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", save_stage1(tmp_path / "stage1"))
    change_config(adapter, file="adapter_config.json", base_model_name_or_path=stated)
    if stated == "no file":  # as an adapter on the hub, of which only the weights are fetched
        (adapter / "adapter_config.json").unlink()
    assert f"vllm-lmtp merge STAGE1 {adapter} " in only_refusal(adapter).remedy


def test_a_checkpoint_with_an_adapter_in_it_is_a_checkpoint(tmp_path: Path) -> None:
    stage1 = save_stage1(tmp_path / "stage1")
    (stage1 / "adapter_config.json").write_text("{}")
    assert read_checkpoint(stage1).stage1
