"""Requests that ask for more than text: structure, budgets, log-probabilities, beams, order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from tests.engine.client import EngineError, EngineHost
from tests.engine.test_real import CHECKPOINT, OPENINGS
from tests.features.requests_engines import Replies, assert_close, both, check_equal
from tests.features.requests_engines import host as host  # pytest finds fixtures by name

Says = Callable[[str], None]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Lily", "Tom"]},
        "friends": {"type": "array", "items": {"enum": ["Mia", "Max"]}, "maxItems": 2},
    },
    "required": ["name", "friends"],
    "additionalProperties": False,
}
REGEX = r" (happy|sad) (cat|dog)(, [a-z]{3,9}){2}\."
GRAMMAR = 'root ::= (" the" | " a") (" big" | " red")+ (" cat" | " dog") " was happy."'
STRUCTURES = {
    "JSON schema": {"json": SCHEMA},
    "regex": {"regex": REGEX},
    "grammar": {"grammar": GRAMMAR},
}
THINKING = {"reasoning_start_str": " girl", "reasoning_end_str": " the end"}
THINKERS = [
    "Once upon a time, there was a girl",
    "A girl and a boy",
    "One day a girl",
    "Once upon a time",
    *OPENINGS[1:],
]
NAMED = [5, 300, 301]
WARM = 1e-3
"""A temperature near zero. vLLM takes 0.01 for whatever is less."""
TIE = 20 * 0.01
"""A token whose log-probability is this much less than the best one's is drawn once in e^20."""


@pytest.fixture(scope="module")
def prompts(host: EngineHost) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    return [tokenizer(text)["input_ids"] for text in OPENINGS][: 5 if host.runner == 1 else 2]


def _cases(runner: int, prompts: list[list[int]]) -> dict[str, tuple[str, dict[str, Any]]]:
    """What is asked for; less of it where steps take their time."""
    tokens = 40 if runner == 1 else 16
    greedy = {"temperature": 0, "max_tokens": tokens}

    def ask(prompts: list[Any], **more: Any) -> tuple[str, dict[str, Any]]:
        return "answer", {"prompts": prompts, "params": greedy | more}

    def each(*params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        asked = [greedy | one for one in params]
        return "answer", {"prompts": prompts[: len(asked)], "params": asked}

    few = prompts[: 5 if runner == 1 else 1]
    cases = {name: ask(few, structured=how, max_tokens=64) for name, how in STRUCTURES.items()}
    thinkers = THINKERS if runner == 1 else THINKERS[:3]
    for budget in (0, 1, 4, 8) if runner == 1 else (1,):
        cases[f"budget {budget}"] = ask(thinkers, thinking_token_budget=budget, ignore_eos=True)
    mixed = [
        greedy | {"ignore_eos": True, "thinking_token_budget": n} for n in range(len(thinkers))
    ]
    del mixed[-1]["thinking_token_budget"]
    cases["budgets mixed"] = ("answer", {"prompts": thinkers, "params": mixed})
    cases |= {
        "stop strings": ask(prompts, stop=[".", " play"]),
        "stop strings, min_tokens": ask(prompts, stop=[".", " play"], min_tokens=tokens // 2),
        "named tokens": each({"logprob_token_ids": NAMED}, {}),
        "named tokens, several": each({"logprob_token_ids": NAMED}, {"logprob_token_ids": [7]}),
        "named tokens, logprobs": each({"logprob_token_ids": NAMED}, {"logprobs": 1}),
        "prompt logprobs": ask(prompts, prompt_logprobs=2, logprobs=2),
        "n": ask(prompts, n=3, temperature=WARM, logprobs=5),
        "priorities": (
            "answer",
            {
                "prompts": prompts * 2,
                "params": greedy,
                "priority": list(range(2 * len(prompts), 0, -1)),
            },
        ),
        "nearly greedy": ask(prompts, temperature=WARM, seed=7, logprobs=5),
        "beams": ("beams", {"prompts": prompts[:2], "width": 3, "tokens": 8}),
    }
    return cases


@pytest.fixture(scope="module")
def served(host: EngineHost, prompts: list[list[int]]) -> tuple[Replies, Replies]:
    """Plain decoding's replies and those with drafts."""
    engine = {
        "reasoning_config": THINKING,
        "scheduling_policy": "priority",
        "max_num_seqs": 8,
        # Else the model writes little but line breaks.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    return both(host, CHECKPOINT, _cases(host.runner, prompts), **engine)


@pytest.mark.feature("requests", "structured output: JSON schema, regex, grammar")
def test_structured_output(served: tuple[Replies, Replies], says: Says) -> None:
    plain, drafted = served
    for name in STRUCTURES:
        for what in ("tokens", "texts", "finish"):
            assert drafted[name][what] == plain[name][what], name
    (text, *_), *_ = drafted["JSON schema"]["texts"]
    assert json.loads(text).keys() == {"name", "friends"}
    (text, *_), *_ = drafted["regex"]["texts"]
    assert re.fullmatch(REGEX, text)
    (text, *_), *_ = drafted["grammar"]["texts"]
    assert re.fullmatch(" (the|a)( big| red)+ (cat|dog) was happy.", text)
    says("tokens equal")


@pytest.mark.feature("requests", "thinking budgets")
def test_thinking_budgets(served: tuple[Replies, Replies], says: Says) -> None:
    plain, drafted = served
    names = [name for name in drafted if name.startswith("budget")]
    assert names
    for name in names:
        check_equal(plain[name], drafted[name])
        assert any(" the end" in text for (text,) in drafted[name]["texts"])
    says("tokens equal")


@pytest.mark.feature("requests", "`vllm:generation_tokens` at stop strings")
def test_generation_tokens(served: tuple[Replies, Replies], says: Says) -> None:
    for name in ("stop strings", "stop strings, min_tokens"):
        plain, drafted = (replies[name] for replies in served)
        check_equal(plain, drafted)
        given = sum(len(tokens) for (tokens,) in drafted["tokens"])
        assert given < 40 * len(drafted["tokens"])
        for replies in (plain, drafted):
            assert replies["counters"]["vllm:generation_tokens"] == given
    says("counts what is given")


@pytest.mark.feature("requests", "`logprob_token_ids`")
def test_named_tokens(served: tuple[Replies, Replies], says: Says) -> None:
    for name in ("named tokens", "named tokens, several"):
        plain, drafted = (replies[name] for replies in served)
        check_equal(plain, drafted)
        steps = drafted["logprobs"][0][0]
        assert len(steps) == len(drafted["tokens"][0][0])
        assert all(step.keys() >= {str(token) for token in NAMED} for step in steps)
    # Beside a request with `logprobs` V1 gives that one, too, the named tokens' places, drafts or
    # not, for as long as both run; its own token is there.
    plain, drafted = (replies["named tokens, logprobs"] for replies in served)
    assert drafted["tokens"] == plain["tokens"]
    assert_close(drafted["sums"], plain["sums"])
    assert drafted["logprobs"][0] is not None
    says("log-probabilities equal")


@pytest.mark.feature("requests", "prompt log-probabilities")
def test_prompt_logprobs(served: tuple[Replies, Replies], says: Says) -> None:
    plain, drafted = (replies["prompt logprobs"] for replies in served)
    check_equal(plain, drafted)
    assert all(steps[0] is None and all(steps[1:]) for steps in drafted["prompt_logprobs"])
    says("log-probabilities equal")


@pytest.mark.feature("requests", "n > 1")
def test_several_answers(served: tuple[Replies, Replies], says: Says) -> None:
    plain, drafted = (replies["n"] for replies in served)
    assert all(len(answers) == 3 for answers in drafted["tokens"])
    check_equal_but_for_ties(plain, drafted)
    says("tokens equal but for near ties")


@pytest.mark.feature("requests", "beam search")
def test_beam_search(served: tuple[Replies, Replies], says: Says) -> None:
    plain, drafted = (replies["beams"] for replies in served)
    assert drafted["tokens"] == plain["tokens"]
    assert all(len(beams) == 3 for beams in drafted["tokens"])
    assert_close(drafted["sums"], plain["sums"])
    says("beams equal; each step is a request of one token, so nothing is drafted")


@pytest.mark.feature("requests", "priorities")
def test_priorities(served: tuple[Replies, Replies], says: Says) -> None:
    check_equal(*(replies["priorities"] for replies in served))
    says("tokens equal")


@pytest.mark.feature("requests", "a temperature near zero, with a seed")
def test_nearly_greedy(served: tuple[Replies, Replies], says: Says) -> None:
    check_equal_but_for_ties(*(replies["nearly greedy"] for replies in served))
    says("tokens equal but for near ties; vLLM takes 0.01 for what is less")


def check_equal_but_for_ties(plain: dict[str, Any], drafted: dict[str, Any]) -> None:
    """With drafts, numbers are drawn in another order. So tokens that are nearly as likely may take
    each other's place, and what follows is another text; no others may."""
    equal = 0
    for theirs, ours, steps in _each_answer(plain, drafted):
        pairs = enumerate(zip(theirs, ours, strict=False))
        first = next((n for n, (one, other) in pairs if one != other), None)
        equal += first is None
        if first is not None:
            best = max(steps[first].values())
            for tokens in (theirs, ours):
                assert best - steps[first][str(tokens[first])] < TIE
    assert equal > 0


def _each_answer(plain: dict[str, Any], drafted: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Tokens of every answer, without drafts and with them, and the former's log-probabilities."""
    for request in zip(plain["tokens"], drafted["tokens"], plain["logprobs"], strict=True):
        yield from zip(*request, strict=True)


@pytest.mark.feature("requests", "`min_p`, `logit_bias`")
def test_what_vllm_refuses(host: EngineHost, served: Any, says: Says) -> None:
    refusal = (
        "The min_p and logit_bias sampling parameters are not yet supported with speculative "
        "decoding."
    )
    for asked in ({"min_p": 0.1}, {"logit_bias": {"5": 1.0}}):
        with pytest.raises(EngineError) as refused:
            host.call("answer", prompts=OPENINGS[:1], params=asked)
        assert refused.value.kind == "VLLMValidationError"
        assert refusal in str(refused.value)
    says(f'vLLM refuses: "{refusal}"')


@pytest.mark.feature("requests", "prompt embeddings")
def test_prompt_embeddings(host: EngineHost, prompts: list[list[int]], says: Says) -> None:
    (file,) = [f for f in Path(CHECKPOINT).glob("*.safetensors") if _has_embeddings(f)]
    with safe_open(file, "pt") as tensors:
        table = tensors.get_tensor("model.embed_tokens.weight")
    given = [table[prompt].float().tolist() for prompt in prompts[:3]]
    asked = {"temperature": 0, "max_tokens": 40 if host.runner == 1 else 12}
    cases = {
        "embeddings": ("answer", {"prompts": given, "params": asked}),
        "beside tokens": ("answer", {"prompts": [given[0], prompts[1]], "params": asked}),
        "tokens": ("answer", {"prompts": prompts[:3], "params": asked}),
    }
    plain, drafted = both(host, CHECKPOINT, cases, enable_prompt_embeds=True)
    for name in cases:
        check_equal(plain[name], drafted[name])
    assert drafted["embeddings"]["tokens"] == drafted["tokens"]["tokens"]
    says("tokens equal")


def _has_embeddings(file: Path) -> bool:
    with safe_open(file, "pt") as tensors:
        return "model.embed_tokens.weight" in tensors.keys()  # noqa: SIM118 - it is no dict
