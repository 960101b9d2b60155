"""Scorers in a folder: those that must be read, and those that must be refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support import folders
from tests.support.refused import only_refusal, refusals
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_checkpoint
from vllm_lmtp.formats.scorer_tensors import MOST_MATCH, ScorerFacts
from vllm_lmtp.method.scorer import MarkovScorer
from vllm_lmtp.worker.scorer_weights import build_scorer

FACTS = {
    "markov": {"kind": "markov"},
    "recurrent": {"kind": "recurrent"},
    "table": {"kind": "table", "weight": 0.8},
}
NAMES = {kind: sorted(folders.scorer(kind)) for kind in FACTS}
BOTH = [(kind, name) for kind in FACTS for name in NAMES[kind]]


def write(
    folder: Path, kind: str, changes: dict[str, torch.Tensor | None], **facts: object
) -> Path:
    """Heads with a scorer; a change to None removes the tensor, a fact that is `...` the key."""
    tensors = folders.heads() | folders.scorer(kind) | changes
    stated = {k: v for k, v in (FACTS[kind] | facts).items() if v is not ...}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return folders.write(folder, kept, folders.config(scorer=stated))


def build(found: HeadsCheckpoint) -> object:
    return build_scorer(found, 0, found.output_rows, 64, torch.float32)


@pytest.mark.parametrize("kind", FACTS)
def test_heads_with_a_scorer(tmp_path: Path, kind: str) -> None:
    found = read_checkpoint(write(tmp_path, kind, {}, corpus="anything"))
    assert found.scorer == ScorerFacts(kind, 0.8 if kind == "table" else 1.0)
    assert build(found) is not None


def test_heads_without_one(tmp_path: Path) -> None:
    found = read_checkpoint(folders.write(tmp_path))
    assert found.scorer is None
    assert build(found) is None


def test_int8_term_with_one_output_for_each_head(tmp_path: Path) -> None:
    term = {
        "scorer.markov.embed": torch.full((7, 2), 3, dtype=torch.int8),
        "scorer.markov.embed_scale": torch.full((7,), 0.5),
        "scorer.markov.output": torch.full((2, 6, 2), 2, dtype=torch.int8),
        "scorer.markov.output_scale": torch.arange(12).view(2, 6).bfloat16(),
    }
    scorer = build(read_checkpoint(write(tmp_path, "markov", term)))
    assert isinstance(scorer, MarkovScorer)
    known = scorer.read(torch.zeros(1, 2), torch.tensor([4]))
    scores = scorer.add(torch.zeros(1, 64), 1, known)
    assert scores[0, :7].tolist() == [2 * 1.5 * 2 * x for x in range(6, 12)] + [0.0]


def test_table_of_target_tokens_beside_a_draft_vocabulary(tmp_path: Path) -> None:
    table = {name: tensor[: folders.VOCAB] for name, tensor in folders.scorer("table").items()}
    values = folders.reduced_config(scorer=FACTS["table"])
    found = read_checkpoint(folders.write(tmp_path, folders.reduced() | table, values))
    scorer = build(found)
    assert len(scorer.ratios) == folders.VOCAB  # type: ignore[attr-defined]
    assert scorer.row_of_token.tolist() == list(range(folders.VOCAB))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_missing_tensor(tmp_path: Path, kind: str, name: str) -> None:
    refusal = only_refusal(write(tmp_path, kind, {name: None}))
    assert (refusal.field, refusal.found) == (name, "no such tensor")


@pytest.mark.parametrize("shape", [(), (7,), (0, 2), (5, 2), (7, 3), (1, 7, 2)])
@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_wrong_shape(tmp_path: Path, kind: str, name: str, shape: tuple[int, ...]) -> None:
    dtype = folders.scorer(kind)[name].dtype
    found = refusals(write(tmp_path, kind, {name: torch.zeros(shape, dtype=dtype)}))
    assert {r.field for r in found} <= set(NAMES[kind])
    assert any("shape" in r.found for r in found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8])
@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_wrong_dtype(tmp_path: Path, kind: str, name: str, dtype: torch.dtype) -> None:
    refusal = only_refusal(write(tmp_path, kind, {name: folders.scorer(kind)[name].to(dtype)}))
    assert refusal.field == name
    assert refusal.found.startswith("dtype")


def test_scales_must_come_with_int8_and_only_then(tmp_path: Path) -> None:
    name, scale = "scorer.markov.embed", "scorer.markov.embed_scale"
    int8 = {name: torch.ones(7, 2, dtype=torch.int8)}
    assert only_refusal(write(tmp_path / "a", "markov", int8)).field == scale
    idle = {scale: torch.ones(7)}
    assert "scales beside" in only_refusal(write(tmp_path / "b", "markov", idle)).found
    short = int8 | {scale: torch.ones(6)}
    assert only_refusal(write(tmp_path / "c", "markov", short)).expected == "shape [7]"


def test_two_kinds_at_once(tmp_path: Path) -> None:
    found = refusals(write(tmp_path, "markov", folders.scorer("table")))
    assert {r.field for r in found} == set(NAMES["table"])


@pytest.mark.parametrize("stated", ["markov", None, {}, {"kind": "bigram"}, {"kind": ["table"]}, 3])
def test_kind_that_is_not_known(tmp_path: Path, stated: object) -> None:
    tensors = folders.heads() | folders.scorer("markov")
    refusal = only_refusal(folders.write(tmp_path, tensors, folders.config(scorer=stated)))
    assert refusal.field == "scorer.kind"


def test_tensors_that_the_config_does_not_state(tmp_path: Path) -> None:
    found = refusals(folders.write(tmp_path, folders.heads() | folders.scorer("table")))
    assert {r.field for r in found} == set(NAMES["table"])


@pytest.mark.parametrize(
    "weight", [..., "0.8", None, True, -1, float("nan"), float("inf"), 10**400]
)
def test_weight_of_a_table(tmp_path: Path, weight: object) -> None:
    assert only_refusal(write(tmp_path, "table", {}, weight=weight)).field == "scorer.weight"


LINE = {"slope": 0.5, "intercept": -0.25, "ece": 0.01}


def test_calibrated_confidence(tmp_path: Path) -> None:
    stated = {"places": [LINE, {"slope": 2, "intercept": 0}], "source": "answers"}
    found = read_checkpoint(write(tmp_path, "markov", {}, confidence=stated))
    assert found.scorer == ScorerFacts("markov", 1.0, ((0.5, -0.25), (2.0, 0.0)))


@pytest.mark.parametrize("stated", [3, [], {}, {"places": []}, {"places": LINE}, {"places": None}])
def test_confidence_without_places(tmp_path: Path, stated: object) -> None:
    refusal = only_refusal(write(tmp_path, "table", {}, confidence=stated))
    assert refusal.field == "scorer.confidence"
    assert "scorer calibrate" in refusal.remedy


@pytest.mark.parametrize(
    "line",
    [
        *({"slope": bad, "intercept": 0.0} for bad in (0, -1, "1", None, True, float("nan"))),
        *({"slope": 1.0, "intercept": bad} for bad in ("0", None, False, float("inf"), 10**400)),
        {"slope": 1.0},
        [1.0, 0.0],
    ],
)
def test_confidence_of_a_place_that_is_no_line(tmp_path: Path, line: object) -> None:
    stated = {"places": [LINE, line]}
    refusal = only_refusal(write(tmp_path, "markov", {}, confidence=stated))
    assert refusal.field == "scorer.confidence.places[1]"


@pytest.mark.parametrize("odds", [[-1.5, 0, 2.25], [0.5], [0.0] * MOST_MATCH])
@pytest.mark.parametrize("kind", FACTS)
def test_fitted_copying(tmp_path: Path, kind: str, odds: list[float]) -> None:
    stated = {"log_odds": odds, "source": "answers"}
    found = read_checkpoint(write(tmp_path, kind, {}, copying=stated)).scorer
    assert found is not None
    assert found.copy_log_odds == tuple(map(float, odds))
    assert all(isinstance(entry, float) for entry in found.copy_log_odds)


@pytest.mark.parametrize(
    "stated",
    [
        3,
        "on",
        [],
        [0.5],
        {},
        {"odds": [0.5]},
        *(
            {"log_odds": odds}
            for odds in (
                None,
                0.5,
                "0.5",
                [],
                {"1": 0.5},
                [0.0] * (MOST_MATCH + 1),
                *([0.5, bad] for bad in (float("nan"), float("inf"), -float("inf"), 10**400)),
                *([0.5, bad] for bad in ("0.5", None, True, [0.5])),
            )
        ),
    ],
)
def test_copying_that_states_no_odds(tmp_path: Path, stated: object) -> None:
    refusal = only_refusal(write(tmp_path, "markov", {}, copying=stated))
    assert (refusal.where, refusal.field) == (str(tmp_path / "config.json"), "scorer.copying")
    assert "log_odds" in refusal.expected
    assert str(MOST_MATCH) in refusal.expected
    assert "scorer calibrate" in refusal.remedy


def test_copying_and_confidence_are_refused_together(tmp_path: Path) -> None:
    found = refusals(write(tmp_path, "table", {}, copying=[], confidence=3, weight=-1))
    assert {r.field for r in found} == {"scorer.weight", "scorer.confidence", "scorer.copying"}


def test_unknown_tensor(tmp_path: Path) -> None:
    refusal = only_refusal(write(tmp_path, "markov", {"scorer.markov.bias": torch.ones(1)}))
    assert refusal.field == "scorer.markov.bias"


def test_a_scorer_alone_is_no_folder_of_heads(tmp_path: Path) -> None:
    values = folders.config(scorer=FACTS["markov"])
    found = refusals(folders.write(tmp_path, folders.scorer("markov"), values))
    assert "heads.heads.*" in {r.field for r in found}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*NAMES["markov"], "scorer.table.ratios"])
def test_values_that_are_not_finite(tmp_path: Path, name: str, value: float) -> None:
    kind = "markov" if "markov" in name else "table"
    damaged = folders.scorer(kind)[name]
    damaged[1, 1] = value
    with pytest.raises(LMTPError, match=name):
        build(read_checkpoint(write(tmp_path, kind, {name: damaged})))


@pytest.mark.parametrize("row", [[0, 6], [-2, 0], [3, 3]])
def test_successors_that_cannot_be(tmp_path: Path, row: list[int]) -> None:
    ids = folders.scorer("table")["scorer.table.ids"]
    ids[4] = torch.tensor(row)
    with pytest.raises(LMTPError, match=r"scorer\.table\.ids"):
        build(read_checkpoint(write(tmp_path, "table", {"scorer.table.ids": ids})))


def test_padding_may_repeat(tmp_path: Path) -> None:
    ids = folders.scorer("table")["scorer.table.ids"]
    ids[4] = -1
    build(read_checkpoint(write(tmp_path, "table", {"scorer.table.ids": ids})))
