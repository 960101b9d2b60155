"""A run on kept rows: it learns, keeps its best state, and goes on where it was interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from safetensors.torch import load_file  # noqa: E402

from tests.support.training.tiny_runs import (  # noqa: E402
    heads_file,
    read_log,
    save_backbone,
    save_kept_answers,
)
from vllm_lmtp.errors import LMTPError  # noqa: E402
from vllm_lmtp.training.model.read_heads import read_trained  # noqa: E402
from vllm_lmtp.training.model.recurrent import RecurrentTerm  # noqa: E402
from vllm_lmtp.training.runs.heads import prepare  # noqa: E402
from vllm_lmtp.training.runs.run import run  # noqa: E402
from vllm_lmtp.training.settings.heads import HeadsRun  # noqa: E402
from vllm_lmtp.training.settings.read_run import read_run  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbone and its answers."""
    made = tmp_path_factory.mktemp("heads-run")
    save_kept_answers(made / "kept", save_backbone(made / "backbone"))
    return made


def test_a_recurrent_term_goes_on_from_a_markov_term_of_a_lower_rank(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("backbone", "kept"):
        (tmp_path / name).symlink_to(folder / name)
    run(heads_file(tmp_path / "known", recurrent=..., markov={"rank": 4}))
    known = read_trained(tmp_path / "known" / "model")
    settings = read_run(
        heads_file(
            tmp_path / "out",
            init=str(tmp_path / "known" / "model"),
            draft_vocab=...,
            recurrent={"rank": 6},
        )
    )
    assert isinstance(settings, HeadsRun)
    begun = prepare(settings, "cpu")
    assert isinstance(begun.model.term, RecurrentTerm)
    expected = begun.measured.measure(known)
    assert begun.measured.measure(begun.model.trained()) == expected
    assert expected[0.0]["length"] > 1


def test_a_term_of_another_rank_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("backbone", "kept"):
        (tmp_path / name).symlink_to(folder / name)
    run(heads_file(tmp_path / "known"))
    again = {"init": str(tmp_path / "known" / "model"), "draft_vocab": ...}
    with pytest.raises(LMTPError) as caught:
        run(heads_file(tmp_path / "out", recurrent={"rank": 6}, **again))
    (refusal,) = caught.value.refusals
    assert (refusal.field, refusal.found) == ("rank, shared", "(8, True)")
    assert "(6, True)" in refusal.expected


def _weights(output: Path) -> dict[str, Any]:
    files = sorted((output / "model").glob("*.safetensors"))
    return {name: value for file in files for name, value in load_file(file).items()}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_it_learns_and_what_it_says_is_so(folder: Path) -> None:
    output = folder / "learns"
    # The random backbone itself would not write its "answers", so these teach, not it.
    changes = {"optim": {"steps": 60, "save_every": 20, "lr": 0.02}}
    run(heads_file(output, loss={"ce": 1.0, "kl_div": 0.0}, **changes))
    log = read_log(output / "model")
    losses = [entry["loss"] for entry in log["history"] if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    assert {f"loss_place_{n}" for n in range(4)} <= set(log["history"][0])
    # The texts go up by one each token: even a small state learns that.
    assert log["held_out"]["drafts"]["length"] > 2.0
    assert [place["place"] for place in log["held_out"]["places"]] == [0, 1, 2, 3]


def test_the_best_state_is_saved(folder: Path) -> None:
    """A rate that ruins what was learnt: the last state is not the one that is kept."""
    output = folder / "best"
    changes = {"steps": 40, "save_every": 5, "lr": 0.3, "warmup": 0.0, "grad_clip": 0.0}
    run(heads_file(output, optim=changes))
    log = read_log(output / "model")
    measured = {e["step"]: e["eval_length"] for e in log["history"] if "eval_length" in e}
    assert sorted(measured) == list(range(5, 45, 5))
    assert measured[log["best_step"]] == max(measured.values())
    kept = {e["step"]: e["eval_length_0"] for e in log["history"] if "eval_length_0" in e}
    # Measured again as it was saved, in bfloat16, by the decoder that serves.
    assert log["held_out"]["drafts"]["length"] == pytest.approx(kept[log["best_step"]], abs=0.2)


def test_an_interrupted_run_ends_with_the_same_weights(folder: Path) -> None:
    whole, broken = folder / "whole", folder / "broken"
    run(heads_file(whole))
    run(heads_file(broken))
    assert _same(_weights(whole), _weights(broken))
    assert not _same(_weights(whole), _weights(folder / "learns"))
    # As it lies there when it is killed after step 4: twice, for good measure.
    for _ in range(2):
        shutil.rmtree(broken / "model")
        shutil.rmtree(broken / "work" / "checkpoint-6")
        run(heads_file(broken))
        assert _same(_weights(whole), _weights(broken))


@pytest.mark.parametrize(
    "changes",
    [
        {"recurrent": ..., "markov": {"rank": 4, "shared": False}, "loss": {"lk_hybrid": 1.0}},
        {"recurrent": ..., "loss": {"ce": 1.0}, "learn": "best"},
        {"recurrent": {"rank": 4, "decay": 0.5}, "loss": {"tv": 1.0, "ce": 0.5}, "int8": True},
    ],
    ids=["markov", "no term", "int8"],
)
def test_other_kinds_of_heads(folder: Path, changes: dict[str, Any], tmp_path: Path) -> None:
    for name in ("backbone", "kept"):
        (tmp_path / name).symlink_to(folder / name)
    report = run(heads_file(tmp_path / "out", **changes))
    assert report["held_out"]["texts"] == 6
