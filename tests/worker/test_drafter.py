"""What the drafter is built of: how places are filled, and what the requests' texts count."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_lmtp.formats.scorer_tensors import ScorerFacts
from vllm_lmtp.method.best import Best
from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.method.copying import DEFAULT_LOG_ODDS, Copying
from vllm_lmtp.method.drawn import Drawn
from vllm_lmtp.worker.drafter import Drafter, _copying, placeholders

PLACES, REQS, VOCAB = 4, 3, 50
FITTED = (0.5, 1.5, 3.0)


def copying_of(
    scorer: ScorerFacts | None = None, hf_config: Any = None, **options: Any
) -> Copying | None:
    asked = {
        "lmtp_copy": "on",
        "lmtp_scorer": "auto",
        "lmtp_copy_min_match": 1,
        "lmtp_copy_max_match": 8,
        "num_speculative_tokens": PLACES,
    }
    config = SimpleNamespace(
        speculative_config=SimpleNamespace(**asked | options),
        scheduler_config=SimpleNamespace(max_num_seqs=REQS),
        model_config=SimpleNamespace(hf_config=hf_config),
    )
    checkpoint: Any = SimpleNamespace(vocab_size=VOCAB, scorer=scorer)
    return _copying(config, checkpoint, torch.device("cpu"), "texts")  # type: ignore[arg-type]


def weights(*odds: float) -> list[float]:
    return [1 / (1 + math.exp(-x)) for x in odds]


def test_texts_are_not_asked_where_copying_is_off() -> None:
    assert copying_of(lmtp_copy="off") is None
    assert copying_of(ScorerFacts("markov", copy_log_odds=FITTED), lmtp_copy="off") is None


def test_texts_count_what_is_known_of_no_checkpoint() -> None:
    copying = copying_of()
    assert copying is not None
    assert copying.weights.tolist() == pytest.approx([0.0, *weights(*DEFAULT_LOG_ODDS)])
    assert (copying.texts, copying.vocab_size) == ("texts", VOCAB)
    assert (copying.sources.shape, copying.sources.dtype) == ((REQS, PLACES), torch.uint8)


@pytest.mark.parametrize(
    ("least", "longest", "wanted"),
    [
        (1, 8, [0, *weights(0.5, 1.5, *[3.0] * 6)]),
        (2, 3, [0, 0, *weights(1.5, 3.0)]),
        (1, 1, [0, *weights(0.5)]),
    ],
)
def test_texts_count_what_was_fitted_to_the_scorer(
    least: int, longest: int, wanted: list[float]
) -> None:
    facts = ScorerFacts("markov", copy_log_odds=FITTED)
    bounds = {"lmtp_copy_min_match": least, "lmtp_copy_max_match": longest}
    copying = copying_of(facts, **bounds)
    assert copying is not None
    assert copying.weights.tolist() == pytest.approx(wanted)


def test_without_the_scorer_what_was_fitted_to_it_counts_nothing() -> None:
    copying = copying_of(ScorerFacts("markov", copy_log_odds=FITTED), lmtp_scorer="none")
    assert copying is not None
    assert copying.weights.tolist() == pytest.approx([0.0, *weights(*DEFAULT_LOG_ODDS)])


def test_placeholders_of_whatever_a_model_takes() -> None:
    config = SimpleNamespace(
        image_token_id=7, video_token_index=3, audio_token_id=None, image_token_index=7, eos=9
    )
    assert placeholders(config) == (3, 7)
    assert placeholders(SimpleNamespace()) == ()
    copying = copying_of(hf_config=config)
    assert copying is not None
    assert copying.never == (3, 7)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("confident", [False, True])
@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
def test_how_places_are_filled(copies: bool, confident: bool, noted: bool, drawn: bool) -> None:
    """The heads' best tokens need no chooser, so that without copying they are asked as ever."""
    decoder: Any = SimpleNamespace(copying="some" if copies else None)
    confidence = Confidence([], PLACES) if confident else None
    drafter = Drafter(decoder, "heads", confidence, 0.6)  # type: ignore[arg-type]
    into = torch.zeros(REQS, PLACES) if noted else None
    chosen = drafter.choice(into, (lambda scores, place: scores) if drawn else None)
    if not drawn and not copies and not (confident and noted):
        assert chosen is None
        return
    assert isinstance(chosen, Drawn if drawn else Best)
    assert (chosen.meter is not None) == (confident and noted)
