"""The package's own checkpoint: output as without drafts, counters as transformers says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import vllm_lmtp
from tests.engine.client import GPU, EngineHost, counted
from tests.support.chain.scorers import Scoring
from tests.support.chain.target import Counters
from tests.support.reduced_heads import reduce
from tests.support.transformers_oracle import Oracle
from tests.support.unscored import without_scorer
from vllm_lmtp.tools.scorers.successors import count_successors

CHECKPOINT = Path(vllm_lmtp.__file__).parent / "checkpoints" / "tiny"
OPENINGS = [
    "Once upon a time, there was a little",
    "Tom and Lily went to the",
    "One day, a big dog",
    "The sun was",
    "Mia had a red ball. She",
]
GREEDY = {"temperature": 0, "max_tokens": 80}


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(CHECKPOINT)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    return [tokenizer(text)["input_ids"] for text in OPENINGS]


# Everything that changes logits or ends requests, on the same prompts with and without drafts.
VARIATIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "logprobs": {"logprobs": 3},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2},
    "min_tokens": {"min_tokens": 60},
    "stop_string": {"stop": ["was"]},
    "bad_words": {"bad_words": [" the"]},
    "structured": {"regex": r" (happy|sad) (cat|dog)(, [a-z]{3,9}){2}\.", "max_tokens": 40},
}


def on_interpreter(host: EngineHost) -> bool:
    """Runner V2 without a GPU, which takes its time."""
    return host.runner == 2 and not GPU


def asked(host: EngineHost, prompts: list[list[int]]) -> tuple[list[list[int]], dict[str, Any]]:
    """Prompts and parameters: fewer and shorter where steps take their time."""
    if on_interpreter(host):
        return prompts[:3], {**GREEDY, "max_tokens": 48}
    return prompts, GREEDY


@pytest.fixture(scope="module")
def served(host: EngineHost, prompts: list[list[int]]) -> dict[str, tuple[Any, Any]]:
    """Each variation's reply from the plain engine and from the engine with drafts."""
    few = prompts[: 2 if on_interpreter(host) else None]
    replies = []
    for spec in (None, "lmtp"):
        host.start(CHECKPOINT, speculative_config=spec, max_num_batched_tokens=64)
        replies.append(
            {
                # Of short answers that a structure allows it takes all for one accepted draft.
                name: host.generate(prompts if "regex" in more else few, {**GREEDY, **more})
                for name, more in VARIATIONS.items()
            }
        )
    plain, drafted = replies
    return {name: (plain[name], drafted[name]) for name in plain}


@pytest.mark.parametrize("name", VARIATIONS)
def test_output_is_that_of_plain_decoding(served: dict[str, tuple[Any, Any]], name: str) -> None:
    plain, drafted = served[name]
    assert drafted["tokens"] == plain["tokens"]
    assert drafted["texts"] == plain["texts"]
    assert drafted["finish"] == plain["finish"]
    if name == "logprobs":
        _close(drafted["logprobs"], plain["logprobs"])
    assert drafted["counters"]["vllm:spec_decode_num_accepted_tokens"] > 0


def _close(left: Any, right: Any) -> None:
    """Logprobs agree to 2e-3: verification computes several rows at once, in another order."""
    for a, b in zip(left, right, strict=True):
        for step_a, step_b in zip(a[0], b[0], strict=True):
            assert step_a.keys() == step_b.keys()
            assert step_a == pytest.approx(step_b, abs=2e-3)


def test_counters_are_what_transformers_recomputes(
    host: EngineHost, prompts: list[list[int]], oracle: Oracle
) -> None:
    prompts, greedy = asked(host, prompts)
    host.start(CHECKPOINT, speculative_config="lmtp", max_num_batched_tokens=64)
    drafted = host.generate(prompts, greedy)
    expected = Counters.zero(6)
    for prompt, (tokens,) in zip(prompts, drafted["tokens"], strict=True):
        output, counters = oracle.expect(prompt, greedy["max_tokens"])
        assert tokens == output
        expected += counters
    assert counted(drafted["counters"], 6, 2) == expected
    assert all(n > 0 for n in expected.accepted_per_pos[:3])


def test_drafts_by_batch_size(host: EngineHost, prompts: list[list[int]], oracle: Oracle) -> None:
    """vLLM's schedule by batch size: shorter drafts, none at all, and drafting again afterwards."""
    host.start(
        CHECKPOINT,
        speculative_config={
            "method": "lmtp",
            "num_speculative_tokens_per_batch_size": [[1, 1, 6], [2, 3, 3], [4, 8, 0]],
        },
    )
    limits = [20, 30, 40, 60, 80]
    params = [{**GREEDY, "max_tokens": limit} for limit in limits]
    reply = host.generate(prompts, params)
    for prompt, (tokens,), limit in zip(prompts, reply["tokens"], limits, strict=True):
        assert tokens == oracle.expect(prompt, limit)[0]
    drafted = counted(reply["counters"], 6, 2).drafted_per_pos
    assert drafted[0] > drafted[5] > 0


def test_reduced_heads_draft_what_transformers_recomputes(
    host: EngineHost, prompts: list[list[int]], oracle: Oracle, tmp_path: Path
) -> None:
    """int8 matrices and a draft vocabulary of what the model writes, less a tenth of it."""
    prompts, greedy = asked(host, prompts)
    written = [oracle.expect(prompt, greedy["max_tokens"])[0] for prompt in prompts]
    seen = sorted({token for tokens in written for token in tokens})
    keep = [token for place, token in enumerate(seen) if place % 10]
    folder = reduce(CHECKPOINT, tmp_path / "reduced", keep=keep, int8=True)
    reduced = Oracle(folder)
    host.start(folder, speculative_config="lmtp", max_num_batched_tokens=64)
    reply = host.generate(prompts, greedy)
    expected = Counters.zero(6)
    for prompt, tokens, (output,) in zip(prompts, written, reply["tokens"], strict=True):
        assert output == tokens
        expected += reduced.expect(prompt, greedy["max_tokens"])[1]
    assert counted(reply["counters"], 6, 2) == expected
    assert expected.accepted_per_pos[0] > 0


def test_a_scorer_can_be_left_out(
    host: EngineHost, prompts: list[list[int]], oracle: Oracle, tmp_path: Path
) -> None:
    """The shipped scorer is worth its place: without it the same heads are accepted less."""
    prompts, greedy = asked(host, prompts)
    plain = Oracle(without_scorer(CHECKPOINT, tmp_path / "unscored"))
    host.start(CHECKPOINT, speculative_config={"method": "lmtp", "lmtp_scorer": "none"})
    reply = host.generate(prompts, greedy)
    expected, scored = Counters.zero(6), Counters.zero(6)
    for prompt, (tokens,) in zip(prompts, reply["tokens"], strict=True):
        output, counters = plain.expect(prompt, greedy["max_tokens"])
        assert tokens == output
        expected += counters
        scored += oracle.expect(prompt, greedy["max_tokens"])[1]
    assert counted(reply["counters"], 6, 2) == expected
    assert _length(scored) > 1.3 * _length(expected)


def _length(counters: Counters) -> float:
    return 1 + sum(counters.accepted_per_pos) / counters.num_drafts


def random_term(config: dict[str, Any]) -> Scoring:
    """A Markov term of rank 16 that changes many a draft."""
    generator = torch.Generator().manual_seed(6)
    size = config["vocab_size"]
    tensors = {
        "scorer.markov.embed": torch.randn(size + 1, 16, generator=generator),
        "scorer.markov.output": torch.randn(3, size, 16, generator=generator) / 4,
    }
    return Scoring({"kind": "markov"}, tensors)


def random_recurrence(config: dict[str, Any]) -> Scoring:
    """A recurrent term of rank 16 that changes many a draft."""
    generator = torch.Generator().manual_seed(7)
    size, hidden = config["vocab_size"], config["hidden_size"]
    tensors = {
        "scorer.recurrent.start": torch.randn(16, hidden, generator=generator) / 8,
        "scorer.recurrent.carry": torch.randn(16, 32, generator=generator) / 4,
        "scorer.recurrent.embed": torch.randn(size + 1, 16, generator=generator),
        "scorer.recurrent.output": torch.randn(3, size, 16, generator=generator) / 2,
    }
    return Scoring({"kind": "recurrent"}, tensors)


def counted_table(config: dict[str, Any], texts: list[list[int]]) -> Scoring:
    """The successors in these texts."""
    passages = (torch.tensor(tokens) for tokens in texts)
    table = count_successors(passages, config["vocab_size"], None, 32, 5.0)
    tensors = {"scorer.table.ids": table.ids, "scorer.table.ratios": table.ratios}
    return Scoring({"kind": "table", "weight": 0.8}, tensors)


@pytest.mark.parametrize("kind", ["markov", "recurrent", "table"])
def test_scored_drafts_are_what_transformers_recomputes(
    host: EngineHost, prompts: list[list[int]], oracle: Oracle, tmp_path: Path, kind: str
) -> None:
    prompts, greedy = asked(host, prompts)
    written = [oracle.expect(prompt, greedy["max_tokens"])[0] for prompt in prompts]
    config = json.loads((CHECKPOINT / "config.json").read_text())
    folder = without_scorer(CHECKPOINT, tmp_path / kind)
    scoring = {
        "markov": lambda: random_term(config),
        "recurrent": lambda: random_recurrence(config),
        "table": lambda: counted_table(config, written),
    }[kind]()
    scored = Oracle(scoring.add_to(folder))
    plain = Oracle(without_scorer(CHECKPOINT, tmp_path / "unscored"))
    host.start(folder, speculative_config="lmtp", max_num_batched_tokens=64)
    reply = host.generate(prompts, greedy)
    expected, unscored = Counters.zero(6), Counters.zero(6)
    for prompt, tokens, (output,) in zip(prompts, written, reply["tokens"], strict=True):
        assert output == tokens
        expected += scored.expect(prompt, greedy["max_tokens"])[1]
        unscored += plain.expect(prompt, greedy["max_tokens"])[1]
    assert counted(reply["counters"], 6, 2) == expected
    if kind == "table":
        assert sum(expected.accepted_per_pos) > sum(unscored.accepted_per_pos)
    else:
        assert expected.accepted_per_pos != unscored.accepted_per_pos
