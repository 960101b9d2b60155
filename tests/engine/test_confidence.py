"""Drafts cut short where they are not worth verifying, against the simulator that cuts likewise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.client import EngineError, EngineHost, counted
from tests.engine.test_chain import GREEDY, prompts_of
from tests.support.chain import scorers as chain_scorers
from tests.support.chain.target import Chain, Counters, draft_vocabulary, save_chain, simulate

ON_V1 = pytest.mark.parametrize("host", ["v1"], indirect=True)
ON_V2 = pytest.mark.parametrize("host", ["v2"], indirect=True)
LINES = [(0.3, -0.5), (0.3, 0.0), (0.25, 0.25), (0.35, -0.25), (0.3, 0.1), (0.4, 0.0)]


def check(host: EngineHost, chain: Chain, places: int, cut: float) -> Counters:
    """Generate and compare with the simulator; returns the counters they agree on."""
    prompts = prompts_of(chain, [1, 5, 40, 41, 90])
    reply = host.generate(prompts, {**GREEDY, "max_tokens": 30})
    expected = Counters.zero(places)
    for prompt, outputs in zip(prompts, reply["tokens"], strict=True):
        output, counters = simulate(chain, prompt, 30, places, cut=cut)
        assert outputs == [output]
        expected += counters
    assert counted(reply["counters"], places, chain.stride) == expected
    drafted = expected.drafted_per_pos
    assert drafted[0] > drafted[-1] > 0  # drafts end at different places
    return expected


@ON_V1
def test_unsure_drafts_lose_their_tail(host: EngineHost, chain: Chain, tmp_path: Path) -> None:
    """By the confidence of heads alone, as they state it."""
    folder = save_chain(chain, tmp_path / "heads")
    spec = {"method": "lmtp", "lmtp_min_confidence": 0.97}
    host.start(folder, speculative_config=spec, max_num_batched_tokens=64)
    check(host, chain, 6, 0.97)


@ON_V1
def test_calibrated_confidence_of_scored_drafts(
    host: EngineHost, chain: Chain, tmp_path: Path
) -> None:
    vocabulary = draft_vocabulary()
    scorer = chain_scorers.calibrated(chain_scorers.markov(chain, vocabulary, per_head=True), LINES)
    folder = scorer.add_to(save_chain(chain, tmp_path / "scored", vocabulary=vocabulary))
    for places, cut in ((6, 0.45), (5, 0.6)):
        spec = {
            "method": "lmtp",
            "lmtp_min_confidence": cut,
            "num_speculative_tokens": places,
        }
        host.start(folder, speculative_config=spec, max_num_batched_tokens=64)
        check(host, chain_scorers.scored(chain, scorer), places, cut)


@ON_V2
def test_v2_has_no_way_to_cut(host: EngineHost, chain_folder: Path) -> None:
    spec = {"method": "lmtp", "lmtp_min_confidence": 0.5}
    with pytest.raises(EngineError, match="enable_adaptive_verification"):
        host.start(chain_folder, speculative_config=spec)
