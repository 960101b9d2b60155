"""What copies count: observed as the chain's own rules say, walked through likewise, and found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.chain import scorers as chain_scorers
from tests.support.chain.kept_answers import keep_rows
from tests.support.chain.target import VOCAB, draft_vocabulary, make_chain, save_chain
from tests.support.copy_search import CopiedDraft
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.method.copying import DEFAULT_LOG_ODDS
from vllm_lmtp.tools.scorers import copying
from vllm_lmtp.tools.scorers.copying import LONGEST, fit, tokens_a_step
from vllm_lmtp.training.data.kept_rows import Answer, read_answers
from vllm_lmtp.training.judging.observed_copies import Copies, observed_copies

PLACES = 6
WEIGHTY = (0.4, 0.8, 1.2)


def scored_chain(folder: Path) -> chain_scorers.ScoredChain:
    chain, vocabulary = make_chain(3, 2, wrong=0.5), draft_vocabulary()
    scorer = chain_scorers.markov(chain, vocabulary, per_head=True)
    scorer.add_to(save_chain(chain, folder, vocabulary=vocabulary))
    return chain_scorers.scored(chain, scorer)


def engine_like(
    chain: chain_scorers.ScoredChain, answers: list[Answer], log_odds: tuple[float, ...]
) -> float:
    """Tokens a step by the chain's own rules, step by step."""
    steps = accepted = 0
    for answer in answers:
        tokens, place = answer.tokens, 0
        while place < len(tokens) - 2:
            text = [*answer.prompt, *tokens[: place + 2]]
            copy = CopiedDraft(text, PLACES, log_odds, VOCAB)
            previous, right = tokens[place + 1], 0
            for p in range(min(PLACES, len(tokens) - place - 2)):
                row = tokens[max(place - (chain.stride - 1 - p % chain.stride), 0)]
                if copy.weight(p):
                    token, _, _ = copy.fill(p, chain.opinion(p, row, previous))
                else:
                    token = chain.drafted(p // chain.stride, row, previous)
                    copy.leave_to_heads(p, token)
                if token != tokens[place + 2 + p]:
                    break
                previous, right = token, right + 1
            steps, accepted, place = steps + 1, accepted + right, place + 1 + right
    return 1 + accepted / steps


def test_answers_are_walked_through_as_an_engine_would(tmp_path: Path) -> None:
    chain = scored_chain(tmp_path / "heads")
    walk = chain.walk(3, 60)
    # The prompt holds what the first answer goes on with, and something false for the second.
    before = [*walk[5:30], 9, *walk[40:44], 11, 12]
    answers = [walk[20:60], walk[39:60], chain.walk(200, 40)]
    data = keep_rows(tmp_path / "data", answers, [0.0] * 3, before)
    kept = read_answers(data, -1)
    assert kept[0].prompt == tuple(before)
    found = observed_copies(read_checkpoint(tmp_path / "heads"), kept, LONGEST)
    lengths = {odds: tokens_a_step(found, odds) for odds in ((), DEFAULT_LOG_ODDS, WEIGHTY)}
    for odds, length in lengths.items():
        assert length == pytest.approx(engine_like(chain, kept, odds), abs=1e-12)
    assert lengths[WEIGHTY] > lengths[()]


@pytest.mark.parametrize("length", [2.1, 1.9])
def test_what_fits_few_answers_alone_is_not_kept(
    length: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, by = (0.1,) * LONGEST, {(): 1.5, DEFAULT_LOG_ODDS: 2.0}
    monkeypatch.setattr(copying, "fit", lambda answers: fitted)
    monkeypatch.setattr(copying, "tokens_a_step", lambda _, odds: by.get(odds, length))
    kept = fitted if length > 2 else DEFAULT_LOG_ODDS
    assert copying.fitted_or_default([], []) == (kept, [1.5, 2.0, max(2.0, length)])


def test_the_weights_are_found() -> None:
    """Text and heads of known opinions, of which either is right as often as the mixture says."""
    generator = torch.Generator().manual_seed(5)
    true = torch.linspace(0.1, 0.9, LONGEST)
    count = 6000
    answers = []
    for length in range(1, LONGEST + 1):
        of_copied = 0.5 * torch.rand(count, 1, generator=generator)
        weight = true[length - 1]
        right = torch.rand(count, 1, generator=generator) < weight + (1 - weight) * of_copied
        answers.append(
            Copies(
                torch.full((count,), length),
                right,
                torch.zeros(count, 1, dtype=torch.bool),
                torch.full((count, 1), -20.0),
                of_copied.log(),
                torch.ones(count, dtype=torch.int64),
            )
        )
    found = torch.tensor(fit(answers)).sigmoid()
    assert torch.allclose(found, true, atol=0.04)


def test_without_observations_the_default_stays() -> None:
    nothing = Copies(
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, 2, dtype=torch.bool),
        torch.ones(3, 2, dtype=torch.bool),
        torch.zeros(3, 2),
        torch.zeros(3, 2),
        torch.full((3,), 2),
    )
    assert fit([nothing]) == pytest.approx(DEFAULT_LOG_ODDS, abs=1e-3)
    assert tokens_a_step([nothing], DEFAULT_LOG_ODDS) == tokens_a_step([nothing], ()) == 3
