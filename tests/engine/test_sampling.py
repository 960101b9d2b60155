"""Sampled output keeps the target's distribution, drafts or not.

The exact-chain target's next-token distribution is known in closed form: it depends on the current
token alone. Each sampled transition is mapped through that distribution's cumulative function
(randomised within a token's own mass), which must give uniform values.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from tests.engine.client import EngineHost
from tests.engine.test_chain import prompts_of
from tests.support.chain.target import VOCAB, Chain, embeddings, target_votes

BINS = 32
# Chi-square with 31 degrees of freedom exceeds this once in a thousand runs.
LIMIT = 61.1


def next_token_probabilities(chain: Chain, temperature: float) -> np.ndarray:
    """[V, V]: row x is the distribution of the token after x."""
    logits = embeddings() @ target_votes().T  # of successor(y) given x: embed[x] . votes[y]
    by_token = torch.empty_like(logits)
    by_token[:, torch.tensor(chain.successor)] = logits
    return torch.softmax(by_token.double() / temperature, dim=-1).numpy()


def chi_square(
    transitions: list[tuple[int, int]], probabilities: np.ndarray, top_k: int | None = None
) -> float:
    """Chi-square of the transitions' probability integral transform over `BINS` equal bins."""
    if top_k is not None:
        cut = np.sort(probabilities, axis=1)[:, -top_k, None]
        probabilities = np.where(probabilities >= cut, probabilities, 0)
        probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    # Most likely first, so that a draft accepted too often or too seldom shifts mass between bins.
    order = np.argsort(-probabilities, axis=1)
    rng = random.Random(0)
    observed = np.zeros(BINS)
    for here, there in transitions:
        place = int(np.where(order[here] == there)[0][0])
        below = probabilities[here, order[here, :place]].sum()
        value = below + rng.random() * probabilities[here, there]
        observed[min(int(value * BINS), BINS - 1)] += 1
    expected = len(transitions) / BINS
    return float(((observed - expected) ** 2 / expected).sum())


def sample(
    host: EngineHost, chain: Chain, requests: int, **params: object
) -> list[tuple[int, int]]:
    """Transitions that the engine sampled."""
    prompts = prompts_of(chain, [3] * requests)
    settings = {"max_tokens": 200, "ignore_eos": True, "detokenize": False, **params}
    reply = host.generate(prompts, settings)
    transitions = []
    for prompt, (output,) in zip(prompts, reply["tokens"], strict=True):
        transitions += list(zip([prompt[-1], *output], output, strict=False))
    if "vllm:spec_decode_num_accepted_tokens" in reply["counters"]:
        assert reply["counters"]["vllm:spec_decode_num_accepted_tokens"] > 0
    return transitions


def test_sampled_tokens_follow_the_target(
    host: EngineHost, chain: Chain, chain_folder: Path
) -> None:
    host.start(chain_folder, speculative_config="lmtp", max_num_seqs=16)
    # Runner 2's sampling kernels take half a minute a thousand tokens under the interpreter.
    requests, temperatures = (120, (1.5, 2.0)) if host.runner == 1 else (4, (1.5,))
    for temperature in temperatures:
        transitions = sample(host, chain, requests, temperature=temperature)
        probabilities = next_token_probabilities(chain, temperature)
        assert chi_square(transitions, probabilities) < LIMIT
        # The test can fail: a slightly different temperature is told apart.
        assert chi_square(transitions, next_token_probabilities(chain, temperature * 1.3)) > LIMIT
    if host.runner == 1:
        transitions = sample(host, chain, requests, temperature=2.0, top_k=20)
        assert chi_square(transitions, next_token_probabilities(chain, 2.0), top_k=20) < LIMIT
    greedy_and_sampled_together(host, chain)


def greedy_and_sampled_together(host: EngineHost, chain: Chain) -> None:
    """A greedy request is exact beside sampled ones."""
    prompts = prompts_of(chain, [5, 6, 7, 8])
    params = [
        {"temperature": t, "max_tokens": 15, "ignore_eos": True, "detokenize": False}
        for t in (0, 2.0, 0, 2.0)
    ]
    reply = host.generate(prompts, params)
    for place in (0, 2):
        assert reply["tokens"][place] == [chain.walk(prompts[place][-1], 15)[1:]]


def test_placeholder_drafts_are_never_sampled(
    host: EngineHost, chain: Chain, chain_folder: Path
) -> None:
    """After a prefix hit that leaves one token, vLLM pads with drafts of -1; none may come out."""
    host.start(chain_folder, speculative_config="lmtp", enable_prefix_caching=True, block_size=32)
    (prompt,) = prompts_of(chain, [65], seed=9)
    expected = chain.walk(prompt[-1], 8)[1:]
    params = {"temperature": 1e-4, "max_tokens": 8, "ignore_eos": True, "detokenize": False}
    for _ in range(6):
        reply = host.generate([prompt], params)
        assert reply["tokens"] == [[expected]]
        assert all(0 <= token < VOCAB for token in reply["tokens"][0][0])
    assert reply["cached"] == [64]
