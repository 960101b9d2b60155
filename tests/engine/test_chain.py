"""Every counter of the engine equals the simulator, whatever the batch does.

Hidden states that are stale, mixed up between requests or shifted by a position do not change the
output, since the target verifies; they change which drafts are accepted. So each test here demands
the exact tokens *and* the exact counts of the exact-chain target (tests/support/chain/target.py).
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.engine.client import EngineError, EngineHost, counted
from tests.support.chain import scorers as chain_scorers
from tests.support.chain.stream_simulator import simulate_streams
from tests.support.chain.target import (
    VOCAB,
    Chain,
    Counters,
    draft_vocabulary,
    make_chain,
    save_chain,
    served,
    simulate,
    simulate_by_batch,
)

GREEDY = {"temperature": 0, "ignore_eos": True, "detokenize": False}
MAX_LEN = 160


def prompts_of(chain: Chain, lengths: list[int], seed: int = 1) -> list[list[int]]:
    """Prompts that are walks along the chain, so that their rows are as known as the output's."""
    rng = random.Random(seed)
    return [chain.walk(rng.randrange(VOCAB), length - 1) for length in lengths]


def check(
    host: EngineHost,
    chain: Chain,
    prompts: list[list[int]],
    max_tokens: int,
    num_drafts: int,
    max_model_len: int = MAX_LEN,
) -> Counters:
    """Generate and compare with the simulator; returns the counters they agree on."""
    reply = host.generate(prompts, {**GREEDY, "max_tokens": max_tokens})
    expected = Counters.zero(num_drafts)
    for prompt, outputs in zip(prompts, reply["tokens"], strict=True):
        output, counters = simulate(
            chain, prompt, max_tokens, num_drafts, max_model_len=max_model_len
        )
        assert outputs == [output]
        expected += counters
    assert counted(reply["counters"], num_drafts, chain.stride) == expected
    return expected


class TestOneEngine:
    """Small batches in chunks of a 64-token budget, with requests coming and going."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def engine(cls, host: EngineHost, chain_folder: Path) -> None:
        host.start(
            chain_folder,
            speculative_config="lmtp",
            max_model_len=MAX_LEN,
            max_num_batched_tokens=64,
            max_num_seqs=6,
        )

    def test_chunked_prefill_and_batch_churn(self, host: EngineHost, chain: Chain) -> None:
        rng = random.Random(3)
        lengths = [rng.randrange(2, 120) for _ in range(20)]
        counters = check(host, chain, prompts_of(chain, lengths), 30, 6)
        # The chain is partly wrong, so every place is accepted at times and refused at others.
        assert all(0 < n < counters.num_drafts for n in counters.accepted_per_pos)

    def test_prompts_of_one_token_start_cold(self, host: EngineHost, chain: Chain) -> None:
        counters = check(host, chain, prompts_of(chain, [1] * 5), 12, 6)
        assert counters.cold == 5

    def test_prompts_of_one_token_that_join_others(self, host: EngineHost, chain: Chain) -> None:
        """In slots that others have left. vLLM pads their first step with drafts that nobody made,
        none of which may be accepted or leave a trace in what is drafted next."""
        prompts = prompts_of(chain, [9, 4, 1, 6, 12, 5, 1, 7, 1, 1, 3, 1])
        reply = host.generate(prompts, {**GREEDY, "max_tokens": 24})
        outputs, expected = simulate_streams(chain, prompts, 6, 24, 6)
        assert [output for (output,) in reply["tokens"]] == outputs
        assert counted(reply["counters"], 6, 2) == expected
        assert expected.cold == 5 + 4  # those four that joined were padded, and then cold

    def test_requests_that_bound_their_drafts(self, host: EngineHost, chain: Chain) -> None:
        """Beside others that do not; twice as many as there is room for at once."""
        bounds = [None, 0, 2, 6, 1, 5, 0, 99, 3, None, 4, 2]
        prompts = prompts_of(chain, [9, 40, 17, 3, 80, 5, 11, 70, 6, 8, 12, 30], seed=8)
        asked = {**GREEDY, "max_tokens": 24}
        given = [{} if b is None else {"extra_args": {"lmtp_max_drafts": b}} for b in bounds]
        reply = host.generate(prompts, [asked | more for more in given])
        expected = Counters.zero(6)
        for prompt, bound, outputs in zip(prompts, bounds, reply["tokens"], strict=True):
            output, counters = simulate(chain, prompt, 24, 6, bound=bound)
            assert outputs == [output]
            expected += counters
        assert counted(reply["counters"], 6, 2) == expected

    @pytest.mark.parametrize("bound", [-1, True, 1.5, "two", [1]])
    def test_a_bound_that_is_none_is_refused(
        self, host: EngineHost, chain: Chain, bound: object
    ) -> None:
        (prompt,) = prompts_of(chain, [9])
        asked = {**GREEDY, "max_tokens": 4, "extra_args": {"lmtp_max_drafts": bound}}
        with pytest.raises(EngineError, match=r"lmtp_max_drafts: found .* expected a number"):
            host.generate([prompt], asked)
        check(host, chain, [prompt], 4, 6)

    def test_end_of_the_context(self, host: EngineHost, chain: Chain) -> None:
        prompts = prompts_of(chain, [140, 150, 155, 158, 20])
        if not host.asynchronous:
            check(host, chain, prompts, 100, 6)
            return
        # Scheduling ahead, vLLM assumes that drafts are accepted and trims the last ones sooner.
        reply = host.generate(prompts, {**GREEDY, "max_tokens": 100})
        expected = [simulate(chain, p, 100, 6, max_model_len=MAX_LEN)[0] for p in prompts]
        assert [o[0] for o in reply["tokens"]] == expected

    def test_several_samples_of_one_prompt(self, host: EngineHost, chain: Chain) -> None:
        (prompt,) = prompts_of(chain, [40])
        sampled = {**GREEDY, "temperature": 1e-4}  # greedy refuses n > 1
        reply = host.generate([prompt], {**sampled, "max_tokens": 25, "n": 3})
        output, counters = simulate(chain, prompt, 25, 6)
        assert reply["tokens"] == [[output] * 3]
        assert counted(reply["counters"], 6, 2) == counters + counters + counters

    def test_stop_token_inside_a_draft(self, host: EngineHost, chain: Chain) -> None:
        for prompt in prompts_of(chain, [10, 11, 12, 13]):
            stop = chain.walk(prompt[-1], 9)[-1]
            reply = host.generate([prompt], {**GREEDY, "max_tokens": 50, "stop_token_ids": [stop]})
            output, counters = simulate(chain, prompt, 50, 6, stop_token=stop)
            assert reply["tokens"] == [[output]]
            assert reply["finish"] == [["stop"]]
            assert counted(reply["counters"], 6, 2) == counters


def test_prefix_cache(host: EngineHost, chain: Chain, chain_folder: Path) -> None:
    """Cached prefixes leave the first rows unknown: cold, once, and never wrong."""
    host.start(chain_folder, speculative_config="lmtp", enable_prefix_caching=True, block_size=32)
    cold = 0
    for prompt in prompts_of(chain, [97, 110, 65, 96, 33], seed=5):
        for visit in range(2):
            reply = host.generate([prompt], {**GREEDY, "max_tokens": 20})
            cached = reply["cached"][0]
            assert cached == ((len(prompt) - 1) // 32 * 32 if visit else 0)
            left = len(prompt) - cached
            output, counters = simulate(chain, prompt, 20, 6, cached=cached, padded=left == 1)
            assert reply["tokens"] == [[output]]
            assert counted(reply["counters"], 6, 2) == counters
            cold += counters.cold
    assert cold > 0


def test_preemption(host: EngineHost, tmp_path: Path) -> None:
    """With heads that are never wrong, only cold drafts are refused, preempted or not."""
    chain = make_chain(3, 2, wrong=0.0)
    host.start(
        save_chain(chain, tmp_path / "exact"),
        speculative_config="lmtp",
        max_model_len=256,
        block_size=32,
        num_gpu_blocks_override=20,
    )
    prompts = prompts_of(chain, [20 + 3 * i for i in range(8)])
    reply = host.generate(prompts, {**GREEDY, "max_tokens": 150})
    assert [o[0] for o in reply["tokens"]] == [chain.walk(p[-1], 150)[1:] for p in prompts]
    assert reply["counters"]["vllm:num_preemptions"] > 0
    counters = counted(reply["counters"], 6, 2)
    assert counters.accepted_per_pos == [n - counters.cold for n in counters.drafted_per_pos]


SHAPES = {
    "v1": [(n, k) for k in (1, 2, 3) for n in (1, 2, 3, 4)],
    "v2": [(1, 1), (3, 1), (1, 2), (2, 3), (4, 3)],
    "v2-async": [(2, 3)],
}
FEWER = {"v1": [1, 2, 3, 4, 5], "v2": [1, 4, 5], "v2-async": [3]}


def test_heads_and_strides(
    host: EngineHost, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for n_heads, stride in SHAPES[_kind(request)]:
        chain = make_chain(n_heads, stride, seed=n_heads * 10 + stride)
        folder = save_chain(chain, tmp_path / f"{n_heads}-{stride}")
        host.start(folder, speculative_config={"method": "lmtp"}, max_num_batched_tokens=64)
        check(host, chain, prompts_of(chain, [1, 2, 3, 30, 90]), 20, n_heads * stride, 512)


def test_fewer_drafts_than_the_heads_offer(
    host: EngineHost, chain: Chain, chain_folder: Path, request: pytest.FixtureRequest
) -> None:
    for wanted in FEWER[_kind(request)]:
        spec = {"method": "lmtp", "num_speculative_tokens": wanted}
        host.start(chain_folder, speculative_config=spec)
        check(host, chain, prompts_of(chain, [5, 40, 41]), 20, wanted, 512)


def test_drafts_by_the_size_of_the_batch(
    host: EngineHost, chain: Chain, chain_folder: Path
) -> None:
    """Requests end one after another, so drafts are short, absent, longer and whole in turn; what
    is drafted after steps without drafts rests on states that those steps kept."""
    schedule = [[1, 1, 6], [2, 3, 3], [4, 5, 0], [6, 8, 1]]
    wanted = [6, 3, 3, 0, 0, 1, 1, 1]
    spec = {"method": "lmtp", "num_speculative_tokens_per_batch_size": schedule}
    host.start(chain_folder, speculative_config=spec)
    prompts = prompts_of(chain, [5, 40, 41, 90, 3, 12, 7, 30])
    limits = [10, 14, 20, 30, 45, 60, 75, 90]
    params = [{**GREEDY, "max_tokens": limit} for limit in limits]
    reply = host.generate(prompts, params)
    outputs, expected = simulate_by_batch(chain, prompts, limits, 6, wanted)
    assert [output for (output,) in reply["tokens"]] == outputs
    found = counted(reply["counters"], 6, 2)
    assert found.drafted_per_pos[0] > found.drafted_per_pos[2] > found.drafted_per_pos[5] > 0
    if not host.asynchronous:  # which schedules a step ahead and so sees each request end later
        assert found == expected


def test_heads_beside_an_ordinary_target(host: EngineHost, chain: Chain, tmp_path: Path) -> None:
    target = save_chain(chain, tmp_path / "target", "plain")
    heads = save_chain(chain, tmp_path / "heads", "heads")
    host.start(target, speculative_config={"model": str(heads), "method": "lmtp"})
    check(host, chain, prompts_of(chain, [5, 40]), 20, 6, 512)


def test_int8_heads_that_draft_a_part_of_the_vocabulary(host: EngineHost, tmp_path: Path) -> None:
    """Tokens outside it are never drafted, and the best of the others is: ties as everywhere."""
    chain, vocabulary = make_chain(3, 2), draft_vocabulary()
    folder = save_chain(chain, tmp_path / "reduced", vocabulary=vocabulary, int8=True)
    host.start(folder, speculative_config="lmtp", max_num_batched_tokens=64)
    reduced = served(chain, vocabulary)
    assert {token for head in reduced.heads for token in head} <= set(vocabulary)
    counters = check(host, reduced, prompts_of(chain, [1, 5, 40, 41, 90]), 30, 6, 512)
    whole = [simulate(chain, p, 30, 6)[1] for p in prompts_of(chain, [1, 5, 40, 41, 90])]
    assert 0 < counters.accepted_per_pos[0] < sum(c.accepted_per_pos[0] for c in whole)


SCORERS = {
    "markov": (None, lambda chain, _: chain_scorers.markov(chain)),
    "markov, int8, one for each head": (
        draft_vocabulary(),
        lambda chain, tokens: chain_scorers.markov(chain, tokens, per_head=True, int8=True),
    ),
    "table": (draft_vocabulary(), chain_scorers.table),
    "table of the draft vocabulary": (
        draft_vocabulary(),
        lambda chain, tokens: chain_scorers.table(chain, tokens, by_target=False),
    ),
}


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_fill_a_draft_from_left_to_right(
    host: EngineHost, chain: Chain, tmp_path: Path, name: str
) -> None:
    """Each place is the best of head and scorer together, given the place before it."""
    vocabulary, make = SCORERS[name]
    folder = save_chain(chain, tmp_path / "scored", vocabulary=vocabulary)
    scorer = make(chain, vocabulary)
    scorer.add_to(folder)
    host.start(folder, speculative_config="lmtp", max_num_batched_tokens=64)
    prompts = prompts_of(chain, [1, 5, 40, 41, 90])
    counters = check(host, chain_scorers.scored(chain, scorer), prompts, 30, 6, 512)
    unscored = chain if vocabulary is None else served(chain, vocabulary)
    alone = [simulate(unscored, prompt, 30, 6)[1] for prompt in prompts]
    assert counters.num_drafts < sum(each.num_drafts for each in alone)
    if name == "table":
        spec = {"method": "lmtp", "lmtp_scorer": "none", "num_speculative_tokens": 5}
        host.start(folder, speculative_config=spec)
        check(host, unscored, prompts, 20, 5, 512)


def test_int8_heads_beside_an_ordinary_target(
    host: EngineHost, chain: Chain, tmp_path: Path
) -> None:
    target = save_chain(chain, tmp_path / "target", "plain")
    heads = save_chain(chain, tmp_path / "heads", "heads", int8=True)
    host.start(target, speculative_config={"model": str(heads), "method": "lmtp"})
    check(host, chain, prompts_of(chain, [5, 40]), 20, 6, 512)


def test_stride_override(host: EngineHost, tmp_path: Path) -> None:
    """A checkpoint that misstates its stride, as published ones do, serves with the right one."""
    chain = make_chain(2, 2)
    folder = save_chain(chain, tmp_path / "misstated")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"skip_token": 2', '"skip_token": 3'))
    host.start(folder, speculative_config={"method": "lmtp", "lmtp_stride": 2})
    check(host, chain, prompts_of(chain, [5, 40]), 20, 4, 512)


def test_stage1_folder_serves_plainly(host: EngineHost, chain: Chain, chain_folder: Path) -> None:
    host.start(chain_folder)
    (prompt,) = prompts_of(chain, [30])
    reply = host.generate([prompt], {**GREEDY, "max_tokens": 20})
    assert reply["tokens"] == [[chain.walk(prompt[-1], 20)[1:]]]
    assert not [name for name in reply["counters"] if "spec_decode" in name or "lmtp" in name]


def _kind(request: pytest.FixtureRequest) -> str:
    return request.node.callspec.params["host"]
