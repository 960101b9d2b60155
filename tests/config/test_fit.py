"""Whether heads, target and settings fit: every refusal, each alone and all together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import folders
from vllm_lmtp.config.fit import MAX_VOCAB, EngineSettings, Target, find_refusals
from vllm_lmtp.errors import Refusal
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_checkpoint
from vllm_lmtp.formats.scorer_tensors import ScorerFacts

TARGET = Target("the-target", folders.HIDDEN, folders.VOCAB)
SETTINGS = EngineSettings(
    runner=2,
    tensor_parallel_size=2,
    pipeline_parallel_size=2,
    async_scheduling=True,
    num_speculative_tokens=None,
    options={"method": "lmtp", "draft_sample_method": "greedy", "quantization": None},
)


@pytest.fixture
def heads(tmp_path: Path) -> HeadsCheckpoint:
    return read_checkpoint(folders.write(tmp_path))


def only_refusal(heads: HeadsCheckpoint, target: Target, settings: EngineSettings) -> Refusal:
    (refusal,) = find_refusals(heads, target, settings)
    assert all((refusal.where, refusal.field, refusal.found, refusal.expected, refusal.remedy))
    return refusal


def with_option(**option: Any) -> EngineSettings:
    return replace(SETTINGS, options={**SETTINGS.options, **option})


def test_fitting_heads_are_not_refused(heads: HeadsCheckpoint) -> None:
    assert find_refusals(heads, TARGET, SETTINGS) == []


@pytest.mark.parametrize("drafts", [1, 3, 4])
def test_as_many_drafts_as_the_heads_give(heads: HeadsCheckpoint, drafts: int) -> None:
    settings = replace(SETTINGS, num_speculative_tokens=drafts)
    assert find_refusals(heads, TARGET, settings) == []


@pytest.mark.parametrize("drafts", [5, 100])
def test_more_drafts_than_the_heads_give(heads: HeadsCheckpoint, drafts: int) -> None:
    settings = replace(SETTINGS, num_speculative_tokens=drafts)
    refusal = only_refusal(heads, TARGET, settings)
    assert (refusal.field, refusal.found) == ("num_speculative_tokens", str(drafts))
    assert refusal.expected == "at most 4: 2 head(s) with stride 2"
    assert "4" in refusal.remedy


@pytest.mark.parametrize(("field", "value"), [("hidden_size", 8), ("vocab_size", 7)])
def test_heads_of_another_target(heads: HeadsCheckpoint, field: str, value: int) -> None:
    refusal = only_refusal(heads, replace(TARGET, **{field: value}), SETTINGS)
    assert (refusal.where, refusal.field) == (str(heads.path), field)
    assert refusal.found == str(getattr(heads, field))
    assert refusal.expected == f"{value}, as the-target has"
    assert "the-target" in refusal.remedy


@pytest.mark.parametrize("held", [None, "table", "markov", "recurrent"])
@pytest.mark.parametrize("wanted", ["auto", "none", "table", "markov", "recurrent"])
def test_a_scorer_asked_for_by_name_must_be_there(
    heads: HeadsCheckpoint, held: str | None, wanted: str
) -> None:
    scored = replace(heads, scorer=None if held is None else ScorerFacts(held))
    settings = with_option(lmtp_scorer=wanted)
    if wanted in ("auto", "none", held):
        assert find_refusals(scored, TARGET, settings) == []
        return
    refusal = only_refusal(scored, TARGET, settings)
    assert (refusal.where, refusal.field) == (str(heads.path), "scorer")
    assert wanted in refusal.expected
    assert "no scorer" in refusal.found if held is None else held in refusal.found


def test_vocabulary_that_float32_cannot_count(heads: HeadsCheckpoint) -> None:
    large = replace(heads, vocab_size=MAX_VOCAB)
    refusal = only_refusal(large, replace(TARGET, vocab_size=MAX_VOCAB), SETTINGS)
    assert refusal.field == "vocab_size"
    assert str(MAX_VOCAB) in refusal.expected

    fits = replace(heads, vocab_size=MAX_VOCAB - 1)
    assert not find_refusals(fits, replace(TARGET, vocab_size=MAX_VOCAB - 1), SETTINGS)


def test_target_that_hands_over_other_states(heads: HeadsCheckpoint) -> None:
    refusal = only_refusal(heads, replace(TARGET, feeds_lm_head=False), SETTINGS)
    assert (refusal.where, refusal.field) == ("the-target", "hidden states")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("quantization", "fp8"),
        ("parallel_drafting", True),
        ("use_heterogeneous_vocab", True),
        ("max_model_len", 512),
        ("draft_tensor_parallel_size", 1),
    ],
)
def test_options_that_would_be_ignored(heads: HeadsCheckpoint, option: str, value: Any) -> None:
    refusal = only_refusal(heads, TARGET, with_option(**{option: value}))
    assert (refusal.where, refusal.field) == ("--speculative-config", option)
    assert refusal.found == repr(value)


ALONE_ON_V1 = replace(SETTINGS, runner=1, tensor_parallel_size=1, pipeline_parallel_size=1)
V1 = replace(ALONE_ON_V1, async_scheduling=None)


@pytest.mark.parametrize(
    ("runner", "options", "refused"),
    [
        (1, {"lmtp_min_confidence": 0.3}, None),
        (1, {"enable_adaptive_verification": True}, "enable_adaptive_verification"),
        (2, {"lmtp_min_confidence": 0.3}, "lmtp_min_confidence"),
        (2, {"enable_adaptive_verification": True}, None),
        (2, {"enable_adaptive_verification": True, "lmtp_min_confidence": 0.3}, None),
        (2, {"lmtp_min_confidence": 0.0}, None),
    ],
)
def test_each_runner_has_its_own_use_for_the_confidence(
    heads: HeadsCheckpoint, runner: int, options: dict[str, Any], refused: str | None
) -> None:
    settings = replace(V1 if runner == 1 else SETTINGS, options=options)
    if refused is None:
        assert find_refusals(heads, TARGET, settings) == []
    else:
        assert only_refusal(heads, TARGET, settings).field == refused


@pytest.mark.parametrize("places", [0, 3, 4, 5])
def test_calibration_is_of_the_places_there_are(heads: HeadsCheckpoint, places: int) -> None:
    facts = ScorerFacts("markov", confidence=((1.0, 0.0),) * places)
    scored, used = replace(heads, scorer=facts), {"lmtp_min_confidence": 0.3}
    assert find_refusals(scored, TARGET, V1) == []  # it is not asked for
    unscored = replace(V1, options=used | {"lmtp_scorer": "none"})
    assert find_refusals(scored, TARGET, unscored) == []
    if places in (0, 4):
        assert find_refusals(scored, TARGET, replace(V1, options=used)) == []
        return
    refusal = only_refusal(scored, TARGET, replace(V1, options=used))
    assert (refusal.field, refusal.found) == ("scorer.confidence.places", f"{places} entries")


@pytest.mark.parametrize(("runner", "ranks"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_drafts_are_drawn_on_one_rank_of_v1_or_any_of_v2(
    heads: HeadsCheckpoint, runner: int, ranks: int
) -> None:
    options = {"draft_sample_method": "probabilistic"}
    base = replace(V1 if runner == 1 else SETTINGS, options=options)
    settings = replace(base, tensor_parallel_size=ranks)
    if (runner, ranks) == (1, 2):
        assert only_refusal(heads, TARGET, settings).field == "draft_sample_method"
    else:
        assert find_refusals(heads, TARGET, settings) == []


@pytest.mark.parametrize("value", [None, 2])
def test_draft_parallelism_may_equal_the_targets(heads: HeadsCheckpoint, value: Any) -> None:
    assert not find_refusals(heads, TARGET, with_option(draft_tensor_parallel_size=value))


def test_runner_v1_takes_no_pipeline(heads: HeadsCheckpoint) -> None:
    settings = replace(SETTINGS, runner=1, async_scheduling=None)
    refusal = only_refusal(heads, TARGET, settings)
    assert refusal.where == "--pipeline-parallel-size"
    assert refusal.found == "2"


def test_runner_v1_takes_no_asynchronous_scheduling(heads: HeadsCheckpoint) -> None:
    settings = replace(SETTINGS, runner=1, pipeline_parallel_size=1)
    assert only_refusal(heads, TARGET, settings).where == "--async-scheduling"


@pytest.mark.parametrize("choice", [None, False])
def test_runner_v1_with_plain_settings(heads: HeadsCheckpoint, choice: bool | None) -> None:
    settings = replace(SETTINGS, runner=1, pipeline_parallel_size=1, async_scheduling=choice)
    assert find_refusals(heads, TARGET, settings) == []


def test_every_reason_is_listed(heads: HeadsCheckpoint) -> None:
    settings = replace(
        with_option(quantization="fp8", parallel_drafting=True, draft_tensor_parallel_size=1),
        runner=1,
        num_speculative_tokens=9,
    )
    target = Target("other", 8, 7, feeds_lm_head=False)
    assert [r.field for r in find_refusals(heads, target, settings)] == [
        "hidden_size",
        "vocab_size",
        "hidden states",
        "num_speculative_tokens",
        "quantization",
        "parallel_drafting",
        "draft_tensor_parallel_size",
        "Model Runner V1",
        "Model Runner V1",
    ]


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"prefill_context_parallel_size": 2}, "--prefill-context-parallel-size"),
        ({"ubatching": True}, "--enable-dbo"),
        ({"kv_sharing_fast_prefill": True}, "--kv-sharing-fast-prefill"),
        (
            {"runner": 2, "pipeline_parallel_size": 2, "async_scheduling": False},
            "--no-async-scheduling",
        ),
    ],
)
def test_runs_that_give_heads_other_states(
    heads: HeadsCheckpoint, change: dict[str, Any], option: str
) -> None:
    refusal = only_refusal(heads, TARGET, replace(SETTINGS, **change))
    assert refusal.where == option


COPY_BOUNDS = ("lmtp_copy_min_match", "lmtp_copy_max_match")


@pytest.mark.parametrize(
    ("least", "longest"), [(1, 1), (1, 8), (8, 8), (64, 64), (2, 1), (9, 8), (64, 1)]
)
def test_the_least_match_is_no_longer_than_the_longest(
    heads: HeadsCheckpoint, least: int, longest: int
) -> None:
    settings = with_option(**dict(zip(COPY_BOUNDS, (least, longest), strict=True)))
    if least <= longest:
        assert find_refusals(heads, TARGET, settings) == []
        return
    refusal = only_refusal(heads, TARGET, settings)
    assert (refusal.where, refusal.field) == ("--speculative-config", "lmtp_copy_min_match")
    assert refusal.found == str(least)
    assert refusal.expected.startswith(f"at most {longest}")
    assert "lmtp_copy_max_match" in refusal.remedy


@pytest.mark.parametrize(
    ("options", "drafts", "field"),
    [
        ({"lmtp_draft_length": "auto"}, None, None),
        ({"lmtp_draft_length": "auto"}, 3, None),
        ({"lmtp_draft_length": "fixed"}, None, None),
        ({"num_speculative_tokens_per_batch_size": [(1, 8, 2)]}, None, None),
        (
            {
                "lmtp_draft_length": "auto",
                "num_speculative_tokens_per_batch_size": [(1, 8, 2)],
            },
            None,
            "lmtp_draft_length",
        ),
        (
            {
                "lmtp_draft_length": "fixed",
                "num_speculative_tokens_per_batch_size": [(1, 8, 2)],
            },
            None,
            "lmtp_draft_length",
        ),
    ],
)
def test_one_answer_to_how_long_drafts_are(
    heads: HeadsCheckpoint, options: dict[str, Any], drafts: int | None, field: str | None
) -> None:
    settings = replace(SETTINGS, options=options, num_speculative_tokens=drafts)
    if field is None:
        assert find_refusals(heads, TARGET, settings) == []
    else:
        assert only_refusal(heads, TARGET, settings).field == field


@pytest.mark.parametrize(
    ("options", "drafts", "refused"),
    [
        ({}, None, False),
        ({"lmtp_draft_length": "auto"}, 2, False),
        ({"lmtp_draft_length": "fixed"}, None, True),
        ({}, 2, True),
        ({"num_speculative_tokens_per_batch_size": [(1, 8, 2)]}, None, True),
    ],
)
def test_what_is_learnt_needs_something_to_learn_and_a_place(
    heads: HeadsCheckpoint,
    tmp_path: Path,
    options: dict[str, Any],
    drafts: int | None,
    refused: bool,
) -> None:
    there = {"lmtp_draft_length_file": str(tmp_path / "length.json")}
    settings = replace(SETTINGS, options=options | there, num_speculative_tokens=drafts)
    if refused:
        assert only_refusal(heads, TARGET, settings).field == "lmtp_draft_length_file"
        return
    assert find_refusals(heads, TARGET, settings) == []
    nowhere = {"lmtp_draft_length_file": str(tmp_path / "no" / "length.json")}
    settings = replace(settings, options=options | nowhere)
    refusal = only_refusal(heads, TARGET, settings)
    assert refusal.field == "lmtp_draft_length_file"
    assert str(tmp_path / "no") in refusal.remedy
