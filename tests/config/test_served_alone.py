"""`vllm serve HEADS`: vLLM's own reader finds target and method in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vllm.transformers_utils.config import maybe_override_with_speculators

from tests.support.random_models import (
    change_config,
    config_of,
    fields,
    save_stage1,
    succeed,
)
from vllm_lmtp.config.served_alone import check, resolve
from vllm_lmtp.errors import LMTPError

FIELD = "speculators_config"


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stage1(tmp_path_factory.mktemp("models") / "stage1")


@pytest.fixture
def plain(stage1: Path, tmp_path: Path) -> Path:
    succeed("export", stage1, tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def heads(stage1: Path, plain: Path, tmp_path: Path) -> Path:
    succeed("convert", "--to", "heads", stage1, tmp_path / "heads", "--target", plain)
    return tmp_path / "heads"


def read(folder: Path, given: Any = None) -> tuple[str, str | None, Any]:
    """As vLLM's engine arguments do, with what we change of it."""
    check(str(folder))
    found = maybe_override_with_speculators(str(folder), None, False, vllm_speculative_config=given)
    return resolve(str(folder), given, found)


def test_the_target_beside_the_heads(heads: Path, plain: Path) -> None:
    model, tokenizer, config = read(heads)
    assert (model, tokenizer) == (str(plain), str(plain))
    assert config == {"method": "lmtp", "model": str(heads)}


def test_both_folders_may_move_together(heads: Path, plain: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    heads.rename(elsewhere / "heads")
    plain.rename(elsewhere / "plain")
    assert read(elsewhere / "heads")[0] == str(elsewhere / "plain")


def test_options_of_the_user_stay(heads: Path) -> None:
    given = {"num_speculative_tokens": 2, "lmtp_copy": "off"}
    assert read(heads, given)[2] == {"method": "lmtp", "model": str(heads)} | given
    assert read(heads, "lmtp")[2] == {"method": "lmtp", "model": str(heads)}


def test_heads_of_a_stage_1_folder_name_it(stage1: Path, tmp_path: Path) -> None:
    succeed("convert", "--to", "heads", stage1, tmp_path / "heads")
    assert read(tmp_path / "heads")[0] == str(stage1)
    stated = config_of(tmp_path / "heads")[FIELD]
    assert stated["verifier"]["architectures"] == ["LlamaForCausalLM"]
    assert stated["proposal_methods"][0]["speculative_tokens"] == 4


def test_a_stage_1_folder_is_its_own_target_where_asked(
    heads: Path, plain: Path, tmp_path: Path
) -> None:
    for name, more in (("open", ()), ("alone", ("--alone",))):
        succeed("convert", "--to", "stage1", heads, tmp_path / name, "--target", plain, *more)
    assert read(tmp_path / "open") == (str(tmp_path / "open"), None, None)
    alone = str(tmp_path / "alone")
    assert read(tmp_path / "alone") == (alone, alone, {"method": "lmtp", "model": alone})
    succeed("export", tmp_path / "alone", tmp_path / "again")
    assert not {FIELD, "speculators_model_type"} & set(config_of(tmp_path / "again"))


def test_heads_made_before_are_given_a_target(heads: Path, plain: Path, tmp_path: Path) -> None:
    for name in (FIELD, "speculators_model_type", "transformer_layer_config"):
        change_config(heads, **{name: ...})
    succeed("convert", "--to", "heads", heads, tmp_path / "new", "--target", plain)
    assert read(tmp_path / "new")[0] == str(plain)


def test_copies_of_a_folder_find_the_same_target(heads: Path, plain: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    copy = tmp_path / "deep" / "first"
    succeed("convert", "--to", "heads", heads, copy, "--first", "1")
    model, _, config = read(copy)
    assert (Path(model).resolve(), config["model"]) == (plain.resolve(), str(copy))
    proposal = config_of(copy)[FIELD]["proposal_methods"][0]
    assert proposal["speculative_tokens"] == 2


def test_a_model_of_the_hubs_cache_is_named_by_its_id(
    stage1: Path, plain: Path, tmp_path: Path
) -> None:
    cached = tmp_path / "models--some--model" / "snapshots" / "0123"
    cached.parent.mkdir(parents=True)
    plain.rename(cached)
    succeed("convert", "--to", "heads", stage1, tmp_path / "heads", "--target", cached)
    assert config_of(tmp_path / "heads")[FIELD]["verifier"]["name_or_path"] == "some/model"


def test_folders_that_are_not_ours_are_left_alone(plain: Path) -> None:
    assert read(plain) == (str(plain), None, None)
    check("no/such-model")
    theirs = ("target", "target", {"method": "eagle3", "num_speculative_tokens": 3})
    assert resolve(str(plain), None, theirs) == theirs


def refused(folder: Path) -> str:
    with pytest.raises(LMTPError) as caught:
        read(folder)
    for part in (str(folder / "config.json"), "--target TARGET"):
        assert part in str(caught.value)
    return str(caught.value)


def test_heads_that_name_no_target_are_refused(heads: Path) -> None:
    change_config(heads, **{FIELD: ...})
    assert f'{{"method": "lmtp", "model": "{heads}"}}' in refused(heads)


def test_a_target_that_is_not_there_is_refused(heads: Path, plain: Path, tmp_path: Path) -> None:
    plain.rename(tmp_path / "gone")
    assert "'../plain', where no folder is" in refused(heads)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"speculators_model_type": "eagle3"}, "speculators_model_type"),
        ({"transformer_layer_config": ...}, "transformer_layer_config"),
        ({FIELD: {}}, f"{FIELD}.verifier.name_or_path"),
        ({FIELD: 3}, f"{FIELD}.proposal_methods[0].speculative_tokens"),
        ({FIELD: {"verifier": {"name_or_path": ""}}}, f"{FIELD}.verifier.name_or_path"),
        ({FIELD: {"proposal_methods": [{}]}}, f"{FIELD}.proposal_methods[0].speculative_tokens"),
    ],
)
def test_what_vllm_could_not_read_is_named(
    heads: Path, changes: dict[str, Any], named: str
) -> None:
    change_config(heads, **changes)
    assert named in refused(heads)


def test_a_target_of_other_sizes_is_refused(
    heads: Path, plain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change_config(plain, hidden_size=64)
    words = ("convert", "--to", "heads", heads, tmp_path / "new", "--target", plain)
    assert fields(capfd, *words) == {"hidden_size"}
