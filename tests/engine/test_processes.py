"""vLLM as it runs by default, engine core and workers in processes of their own; two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.layouts import CHAIN, REFUSAL, V1, V2, Layout, mark, pipeline, tensor
from tests.engine.client import EngineError, EngineHost
from tests.engine.test_chain import GREEDY, check, prompts_of
from tests.engine.test_confidence import LINES
from tests.engine.test_confidence import check as check_cut
from tests.engine.test_drawn import AS_THE_TARGET, accepted_share, sample
from tests.support.chain import scorers as chain_scorers
from tests.support.chain.known_distribution import save_dice
from tests.support.chain.target import Chain, draft_vocabulary, save_chain

TWO_RANKS = [
    pytest.param(
        layout,
        runner,
        marks=[mark(layout, runner, CHAIN), *marks],
        id=f"{layout.split}, V{runner[0]}",
    )
    for layout, runner, marks in [
        (tensor(2), V1, ()),
        (tensor(2), V2, (pytest.mark.distributed,)),
        (pipeline(2), V2, ()),
    ]
]


@pytest.mark.parametrize(("layout", "runner"), TWO_RANKS)
def test_two_ranks_draft_as_one(
    layout: Layout, runner: tuple[int, bool], chain: Chain, chain_folder: Path, tmp_path: Path
) -> None:
    """Ranks that hold half of a vocabulary of 509, or half of the layers, draft as one would."""
    host = EngineHost(*runner, tmp_path / "host.log", processes=True)
    try:
        host.start(
            chain_folder,
            speculative_config="lmtp",
            **layout.args,
            max_num_batched_tokens=64,
        )
        check(host, chain, prompts_of(chain, [5, 40, 41, 90]), 20, 6, 512)
    finally:
        host.close()


@pytest.mark.distributed
def test_two_ranks_take_the_length_that_is_found(
    chain: Chain, chain_folder: Path, tmp_path: Path
) -> None:
    """The scheduler's process tells them; both cut at the same price and copy the same text."""
    host = EngineHost(1, False, tmp_path / "host.log", processes=True)
    try:
        spec = {"method": "lmtp", "lmtp_draft_length": "auto"}
        host.start(chain_folder, speculative_config=spec, tensor_parallel_size=2)
        prompts = prompts_of(chain, [5, 40])
        reply = host.generate(prompts, {**GREEDY, "max_tokens": 250})
        outputs = [chain.walk(prompt[-1], 250)[1:] for prompt in prompts]
        assert [output for (output,) in reply["tokens"]] == outputs
        drafted = reply["counters"]["vllm:spec_decode_num_draft_tokens"]
        assert 0 < reply["counters"]["vllm:spec_decode_num_accepted_tokens"] <= drafted
    finally:
        host.close()


@pytest.mark.parametrize("runner", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_workers_are_not_asked_for_drafts(
    runner: int, chain: Chain, chain_folder: Path, tmp_path: Path
) -> None:
    """Scheduled synchronously, drafts come with the tokens: two calls a step, as without lmtp."""
    host = EngineHost(runner, False, tmp_path / "host.log")
    try:
        backend = {"distributed_executor_backend": "mp"}
        host.start(chain_folder, speculative_config="lmtp", **backend, max_num_batched_tokens=64)
        host.call("count_calls")
        check(host, chain, prompts_of(chain, [5, 40, 41, 90]), 20, 6, 512)
        calls = host.call("counted_calls")["calls"]
        assert set(calls) == {"execute_model", "sample_tokens"}
    finally:
        host.close()


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["markov", "table"])
@pytest.mark.parametrize(("runner", "asynchronous"), [(1, False), (2, True)])
def test_two_ranks_share_a_draft_vocabulary_and_a_scorer(
    runner: int, asynchronous: bool, kind: str, chain: Chain, tmp_path: Path
) -> None:
    """Each rank scores its part of a vocabulary of 401; (value, id) pairs settle every place."""
    vocabulary = draft_vocabulary()
    if kind == "markov":
        scorer = chain_scorers.markov(chain, vocabulary, per_head=True, int8=True)
    else:
        scorer = chain_scorers.table(chain, vocabulary)
    folder = save_chain(chain, tmp_path / kind, vocabulary=vocabulary, int8=True)
    host = EngineHost(runner, asynchronous, tmp_path / "host.log", processes=True)
    try:
        host.start(
            scorer.add_to(folder),
            speculative_config="lmtp",
            tensor_parallel_size=2,
            max_num_batched_tokens=64,
        )
        scored = chain_scorers.scored(chain, scorer)
        check(host, scored, prompts_of(chain, [5, 40, 41, 90]), 20, 6, 512)
    finally:
        host.close()


@pytest.mark.distributed
def test_two_ranks_agree_on_the_confidence(chain: Chain, tmp_path: Path) -> None:
    """The log-sum-exp of both parts of the vocabulary tells how likely a token was."""
    vocabulary = draft_vocabulary()
    scorer = chain_scorers.calibrated(chain_scorers.markov(chain, vocabulary, per_head=True), LINES)
    folder = scorer.add_to(save_chain(chain, tmp_path / "scored", vocabulary=vocabulary))
    host = EngineHost(1, False, tmp_path / "host.log", processes=True)
    try:
        spec = {"method": "lmtp", "lmtp_min_confidence": 0.45}
        host.start(folder, speculative_config=spec, tensor_parallel_size=2)
        check_cut(host, chain_scorers.scored(chain, scorer), 6, 0.45)
    finally:
        host.close()


@pytest.mark.distributed
def test_two_ranks_draw_alike(tmp_path: Path) -> None:
    """Both hold the whole distribution, so drafts drawn as the target draws are all accepted."""
    host = EngineHost(2, True, tmp_path / "host.log", processes=True)
    try:
        spec = AS_THE_TARGET
        folder = save_dice(tmp_path / "same", blur=0.0)
        host.start(folder, speculative_config=spec, tensor_parallel_size=2)
        _, reply = sample(host, 6, 12, temperature=1.0)
        assert accepted_share(reply) > 0.999
    finally:
        host.close()


@mark(pipeline(2), V1, REFUSAL)
def test_refusal_reaches_the_user_at_once(chain_folder: Path, tmp_path: Path) -> None:
    """A configuration that cannot work stops before any worker starts, with every reason."""
    host = EngineHost(1, False, tmp_path / "host.log", processes=True)
    try:
        with pytest.raises(EngineError) as error:
            host.start(
                chain_folder,
                pipeline_parallel_size=2,
                speculative_config={
                    "method": "lmtp",
                    "num_speculative_tokens": 9,
                    "quantization": "fp8",
                },
            )
        message = str(error.value)
        assert error.value.kind == "LMTPError"
        for part in (
            "3 reasons",
            "num_speculative_tokens",
            "at most 6",
            "--pipeline-parallel-size",
        ):
            assert part in message
        with pytest.raises(EngineError, match="lmtp_strid: found an unknown key"):
            host.start(chain_folder, speculative_config={"method": "lmtp", "lmtp_strid": 2})
        with pytest.raises(EngineError, match="'medusa' with the leap heads"):
            host.start(
                chain_folder,
                speculative_config={
                    "method": "medusa",
                    "model": str(chain_folder),
                    "num_speculative_tokens": 3,
                },
            )
    finally:
        host.close()


def test_other_methods_are_unharmed(chain: Chain, tmp_path: Path) -> None:
    """With the plugin installed, vLLM's own ngram drafting runs as ever.

    On Runner V1, since Triton's interpreter cannot run V2's ngram kernel. In a process of its own:
    once ngram has loaded numba, vLLM 0.32 cannot start another CPU engine in the same process.
    """
    host = EngineHost(1, False, tmp_path / "host.log")
    try:
        host.start(
            save_chain(chain, tmp_path / "plain", "plain"),
            speculative_config={
                "method": "ngram",
                "num_speculative_tokens": 3,
                "prompt_lookup_max": 2,
                "prompt_lookup_min": 1,
            },
        )
        (walk,) = prompts_of(chain, [30])
        reply = host.generate([walk + walk[:10]], {**GREEDY, "max_tokens": 20})
        assert reply["tokens"] == [[chain.walk(walk[9], 20)[1:]]]
        assert reply["counters"]["vllm:spec_decode_num_accepted_tokens"] > 0
        assert not [name for name in reply["counters"] if "lmtp" in name]
    finally:
        host.close()
