"""How leap heads are asked for, and how a stage-1 target is presented to vLLM."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import folders
from vllm_lmtp.config.requested import asks_for_lmtp, target_overrides
from vllm_lmtp.errors import LMTPError


def engine_args(
    speculative_config: Any = None, spec_method: str | None = None, spec_model: str | None = None
) -> Any:
    return SimpleNamespace(
        speculative_config=speculative_config, spec_method=spec_method, spec_model=spec_model
    )


def test_other_versions_may_know_no_such_flags() -> None:
    older = SimpleNamespace(speculative_config=None)
    assert not asks_for_lmtp(older)
    assert asks_for_lmtp(SimpleNamespace(speculative_config="lmtp"))


@pytest.fixture
def heads(tmp_path: Path) -> str:
    return str(folders.write(tmp_path / "heads"))


@pytest.mark.parametrize(
    "args",
    [
        engine_args("lmtp"),
        engine_args({"method": "lmtp"}),
        engine_args({"method": "lmtp", "num-speculative-tokens": 4}),
        engine_args({"method": "lmtp", "model": "some/heads"}),
        engine_args(spec_method="lmtp"),
        engine_args({"model": "some/heads"}, spec_method="lmtp"),
        engine_args(spec_method="lmtp", spec_model="some/heads"),
    ],
)
def test_method_named(args: Any) -> None:
    assert asks_for_lmtp(args)


def test_bare_word_becomes_the_dict_that_vllm_takes() -> None:
    args = engine_args("lmtp")
    asks_for_lmtp(args)
    assert args.speculative_config == {"method": "lmtp"}


@pytest.mark.parametrize(
    "args",
    [
        engine_args(),
        engine_args({}),
        engine_args({"method": "ngram", "num_speculative_tokens": 2}),
        engine_args({"model": "some/drafter"}),
        engine_args({"model": "/no/such/folder"}),
        engine_args(spec_method="eagle3", spec_model="some/drafter"),
    ],
)
def test_other_requests_are_left_as_they_are(args: Any) -> None:
    before = vars(args).copy()
    assert not asks_for_lmtp(args)
    assert vars(args) == before


def test_folder_of_heads_needs_no_method(heads: str) -> None:
    args = engine_args({"model": heads, "num_speculative_tokens": 2})
    assert asks_for_lmtp(args)
    assert args.speculative_config["method"] == "lmtp"


def test_folder_of_heads_as_spec_model_needs_no_method(heads: str) -> None:
    assert asks_for_lmtp(engine_args(spec_model=heads))


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "qwen2"}'])
def test_folder_of_anything_else_is_left_to_vllm(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert not asks_for_lmtp(engine_args({"model": str(tmp_path)}))


@pytest.mark.parametrize("method", ["eagle", "medusa", "draft_model"])
def test_other_method_on_a_folder_of_heads_is_refused(heads: str, method: str) -> None:
    with pytest.raises(LMTPError) as caught:
        asks_for_lmtp(engine_args({"model": heads, "method": method}))
    (refusal,) = caught.value.refusals
    assert (refusal.where, refusal.field) == ("--speculative-config", "method")
    assert method in refusal.found
    assert heads in refusal.remedy


# --- target_overrides -----------------------------------------------------------------------------


class Config(dict[str, Any]):
    """Stands in for a transformers config: `update` sets values."""


def rename_everything(config: Config) -> Config:
    config.update({"seen": config["architectures"], "head_type": "renamed"})
    return config


@pytest.fixture
def stage1(tmp_path: Path) -> str:
    return str(folders.write(tmp_path / "stage1", values=folders.config(stage1=True)))


OURS = {"architectures": ["Qwen2ForCausalLM"], "head_type": "lmtp"}


@pytest.mark.parametrize("given", [None, {}])
def test_stage1_folder_is_presented_as_its_backbone(stage1: str, given: Any) -> None:
    assert target_overrides(stage1, None, given) == OURS


def test_the_users_own_overrides_are_kept_and_win(stage1: str) -> None:
    given = {"rope_theta": 1.0, "architectures": ["Mine"]}
    got = target_overrides(stage1, None, given)
    assert got == OURS | given
    assert given == {"rope_theta": 1.0, "architectures": ["Mine"]}


def test_a_callable_sees_the_backbone_and_has_the_last_word(stage1: str) -> None:
    config = target_overrides(stage1, None, rename_everything)(Config(architectures=["LMTPModel"]))
    assert config == {
        "architectures": ["Qwen2ForCausalLM"],
        "seen": ["Qwen2ForCausalLM"],
        "head_type": "renamed",
    }


def test_a_callable_can_still_be_sent_to_the_engine_process(stage1: str) -> None:
    """vLLM pickles its model config when it spawns; a plain function of the user survives that."""
    composed = pickle.loads(pickle.dumps(target_overrides(stage1, None, rename_everything)))
    assert composed(Config())["head_type"] == "renamed"


def test_applying_twice_changes_nothing(stage1: str) -> None:
    once = target_overrides(stage1, None, {"rope_theta": 1.0})
    assert target_overrides(stage1, None, once) == once


@pytest.mark.parametrize("given", [None, {"a": 1}, rename_everything])
def test_folders_without_a_backbone_of_ours_are_left_alone(
    tmp_path: Path, heads: str, given: Any
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "num_hidden_layers": 2}')
    for folder in (str(tmp_path), heads):
        assert target_overrides(folder, None, given) is given


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_unreadable_folders_are_left_to_vllm(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert target_overrides(str(tmp_path), None, None) is None


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("llama", "LlamaForCausalLM"), ("gemma3_text", "Gemma3ForCausalLM")],
)
def test_every_published_backbone_is_known(
    tmp_path: Path, model_type: str, architecture: str
) -> None:
    folders.write(tmp_path, values=folders.config(stage1=True, model_type=model_type))
    assert target_overrides(str(tmp_path), None, None)["architectures"] == [architecture]


@pytest.mark.parametrize("model_type", [..., "no-such-type", None])
def test_unknown_backbone_is_refused(tmp_path: Path, model_type: Any) -> None:
    folders.write(tmp_path, values=folders.config(stage1=True, model_type=model_type))
    with pytest.raises(LMTPError) as caught:
        target_overrides(str(tmp_path), None, None)
    (refusal,) = caught.value.refusals
    assert refusal.field == "model_type"
    assert refusal.where.endswith("config.json")


@pytest.mark.parametrize("model_type", [["qwen2"], {}])
def test_backbone_that_is_no_name_is_refused(tmp_path: Path, model_type: Any) -> None:
    folders.write(tmp_path, values=folders.config(stage1=True, model_type=model_type))
    with pytest.raises(LMTPError):
        target_overrides(str(tmp_path), None, None)
