"""Drafts that copy from the request's own text, against the simulator that searches by brute force.

The chain's own walks never repeat a token, so these prompts do it for them: some repeat a part of
the walk, and copying is right; some repeat a part that went on falsely before, and it is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.engine.client import EngineHost, counted
from tests.support.chain import scorers as chain_scorers
from tests.support.chain.target import (
    VOCAB,
    Chain,
    Counters,
    draft_vocabulary,
    make_chain,
    save_chain,
    simulate,
)
from vllm_lmtp.method.copying import DEFAULT_LOG_ODDS

GREEDY = {"temperature": 0, "ignore_eos": True, "detokenize": False}
TOKENS = 24
NEVER = float("-inf")
ODDS = [-0.5, 0.3, 0.8, 1.5]
ACCURACY = [0.35, 0.55, 0.75, 0.95]


def repeating(chain: Chain, seed: int = 2) -> list[list[int]]:
    """Prompts of walks whose last tokens, one to nine of them, stood in the prompt before: there
    the walk went on as it does, or broke off for another one."""
    rng = random.Random(seed)
    prompts = []
    for length in (1, 2, 3, 4, 5, 9):
        for goes_on in (True, False):
            walk = chain.walk(rng.randrange(VOCAB), 40)
            start = rng.randrange(20)
            again = walk[start : start + length]
            before = walk if goes_on else [*walk[: start + length], *prompts_of(chain, rng)]
            prompts.append([*before, *prompts_of(chain, rng), *again])
    return prompts


def prompts_of(chain: Chain, rng: random.Random) -> list[int]:
    """Some other walk."""
    return chain.walk(rng.randrange(VOCAB), rng.randrange(5, 30))


def check(
    host: EngineHost, chain: Chain, prompts: Sequence[list[int]], together: bool, **options: Any
) -> Counters:
    """Generate and compare with the simulator; returns the counters they agree on."""
    expected = Counters.zero(6)
    outputs = []
    for prompt in prompts:
        output, counters = simulate(chain, prompt, TOKENS, 6, **options)
        outputs.append([output])
        expected += counters
    params = {**GREEDY, "max_tokens": TOKENS}
    batches = [list(prompts)] if together else [[prompt] for prompt in prompts]
    replies = [host.generate(batch, params) for batch in batches]
    assert [tokens for reply in replies for tokens in reply["tokens"]] == outputs
    found = sum((counted(reply["counters"], 6, 2) for reply in replies), Counters.zero(6))
    assert found == expected
    return expected


def test_texts_that_repeat_themselves(host: EngineHost, chain: Chain, chain_folder: Path) -> None:
    """In chunks of a 64-token budget, with requests coming and going."""
    host.start(chain_folder, speculative_config="lmtp", max_num_batched_tokens=64, max_num_seqs=5)
    prompts = repeating(chain)
    counters = check(host, chain, prompts, together=True)
    assert 0 < counters.copied_accepted < counters.copied
    alone = [simulate(chain, prompt, TOKENS, 6, copy_odds=())[1] for prompt in prompts]
    assert counters.num_drafts != sum(each.num_drafts for each in alone)
    # Several answers to one prompt, each with a text of its own.
    sampled = {**GREEDY, "temperature": 1e-4, "max_tokens": TOKENS, "n": 3}
    reply = host.generate([prompts[-2]], sampled)
    output, one = simulate(chain, prompts[-2], TOKENS, 6)
    assert reply["tokens"] == [[output] * 3]
    assert counted(reply["counters"], 6, 2) == one + one + one
    assert one.copied_accepted > 0


def test_copying_can_be_bounded_and_left_out(
    host: EngineHost, chain: Chain, chain_folder: Path
) -> None:
    bounds = {"lmtp_copy_min_match": 5, "lmtp_copy_max_match": 6}
    bounded = [NEVER] * 4 + list(DEFAULT_LOG_ODDS[4:6])
    for options, odds in (({"lmtp_copy": "off"}, []), (bounds, bounded)):
        host.start(chain_folder, speculative_config={"method": "lmtp", **options})
        counters = check(host, chain, repeating(chain), together=True, copy_odds=odds)
        assert bool(counters.copied) == bool(odds)


def fitted(chain: Chain, vocabulary: tuple[int, ...]) -> chain_scorers.Scoring:
    """A scorer that states what copies count."""
    scoring = chain_scorers.markov(chain, vocabulary, per_head=True)
    scoring.config["copying"] = {"log_odds": ODDS}
    return scoring


def test_copies_beside_a_scorer_and_outside_its_vocabulary(
    host: EngineHost, chain: Chain, tmp_path: Path
) -> None:
    vocabulary = draft_vocabulary()
    scorer = fitted(chain, vocabulary)
    folder = scorer.add_to(save_chain(chain, tmp_path / "scored", vocabulary=vocabulary))
    host.start(folder, speculative_config="lmtp", max_num_batched_tokens=64)
    scored = chain_scorers.scored(chain, scorer)
    prompts = repeating(chain, seed=3)
    counters = check(host, scored, prompts, together=True, copy_odds=ODDS)
    assert 0 < counters.copied_accepted < counters.copied
    written = {token for prompt in prompts for token in chain.walk(prompt[-1], TOKENS)}
    assert not written <= set(vocabulary)


@pytest.mark.parametrize("host", ["v1"], indirect=True)
def test_the_cut_knows_both_opinions(host: EngineHost, chain: Chain, tmp_path: Path) -> None:
    """Where a request's text outweighs the heads they are not even asked about it."""
    vocabulary = draft_vocabulary()
    lines = [(0.3, -0.5), (0.3, 0.0), (0.25, 0.25), (0.35, -0.25), (0.3, 0.1), (0.4, 0.0)]
    scorer = chain_scorers.calibrated(fitted(chain, vocabulary), lines)
    scorer.config["copying"] = {"log_odds": ODDS, "accuracy": ACCURACY}
    folder = scorer.add_to(save_chain(chain, tmp_path / "scored", vocabulary=vocabulary))
    spec = {"method": "lmtp", "lmtp_min_confidence": 0.3}
    host.start(folder, speculative_config=spec)
    scored = chain_scorers.scored(chain, scorer)
    said = {"copy_odds": ODDS, "copy_accuracy": ACCURACY}
    counters = check(host, scored, repeating(chain, seed=4), together=True, cut=0.3, **said)
    drafted = counters.drafted_per_pos
    assert drafted[0] > drafted[-1] > 0
    assert 0 < counters.copied_accepted < counters.copied


def test_preempted_requests_copy_again(host: EngineHost, tmp_path: Path) -> None:
    chain = make_chain(3, 2, wrong=0.5)
    host.start(
        save_chain(chain, tmp_path / "half"),
        speculative_config="lmtp",
        max_model_len=256,
        block_size=32,
        num_gpu_blocks_override=20,
        enable_prefix_caching=True,
    )
    prompts = repeating(chain)[4:]
    reply = host.generate(prompts, {**GREEDY, "max_tokens": 120})
    assert [o[0] for o in reply["tokens"]] == [chain.walk(p[-1], 120)[1:] for p in prompts]
    assert reply["counters"]["vllm:num_preemptions"] > 0
    counters = counted(reply["counters"], 6, 2)
    assert 0 < counters.copied_accepted < counters.copied
