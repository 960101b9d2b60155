"""Mended faults of vLLM: what is changed, with stand-ins; beside engines in tests/features."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.sample.thinking_budget_state import ThinkingBudgetStateHolder

from vllm_lmtp.patches.faults import token_logprobs_v2
from vllm_lmtp.patches.faults.generation_tokens import _finished
from vllm_lmtp.patches.faults.input_in_parts import _stopped
from vllm_lmtp.patches.faults.thinking_budget import _apply_to_logits, _update_state
from vllm_lmtp.runner_v1 import budgets as thinking_budgets
from vllm_lmtp.runner_v1.proposer import LMTPProposer

START, END, WORD = 7, [8, 9], 3
MOST = 18


# --- thinking budgets -----------------------------------------------------------------------------


def holder_of(budgets: list[int], drafts: int, prompt: list[int]) -> ThinkingBudgetStateHolder:
    """vLLM's own, for requests of this prompt."""
    config: Any = SimpleNamespace(reasoning_start_token_ids=[START], reasoning_end_token_ids=END)
    holder = ThinkingBudgetStateHolder(config, len(budgets), drafts, torch.device("cpu"), False)
    for index, budget in enumerate(budgets):
        holder._state[index] = holder._init_state_entry(prompt, budget)
    return holder


def rows_for(tokens: list[int]) -> torch.Tensor:
    """Logits of a target that wants these tokens."""
    return torch.nn.functional.one_hot(torch.tensor(tokens, dtype=torch.int64), 10).float()


def sample(
    holder: Any, outputs: list[list[int]], drafts: list[list[int]], wanted: list[int]
) -> list[list[int]]:
    """A step's tokens, greedy. wanted: what the target would write where nothing is forced."""
    update = type(holder).update_state.__get__(holder)
    apply = type(holder).apply_to_logits.__get__(holder)
    both = list(zip(outputs, drafts, strict=True))
    last = rows_for([wanted[len(output) + len(draft)] for output, draft in both])
    rows = rows_for([wanted[len(output) + n] for output, draft in both for n in range(len(draft))])
    _update_state(update, holder, (outputs, drafts), {"repeat_indices": None})
    _apply_to_logits(apply, holder, (last, any(drafts), drafts), {})
    if len(rows):
        _apply_to_logits(apply, holder, (rows, False, drafts), {})
    verdicts, taken = iter(rows.argmax(dim=1).tolist()), []
    for index, draft in enumerate(drafts):
        places = [next(verdicts) for _ in draft] + [int(last[index].argmax())]
        right = next((n for n, token in enumerate(draft) if token != places[n]), len(draft))
        taken.append(places[: right + 1])
    return taken


def write(
    budgets: list[int], drafts: int, right: int, prompt: list[int], wanted: list[int]
) -> list[list[int]]:
    """What requests write with drafts of which so many tokens are the wanted ones."""
    holder = holder_of(budgets, drafts, prompt)
    outputs: list[list[int]] = [[] for _ in budgets]
    step = 0
    while min(map(len, outputs)) < MOST:
        step += 1
        made = [
            # Every third step has no drafts at all.
            [] if step % 3 == 1 else wanted[len(output) :][:right] + [2] * (drafts - right)
            for output in outputs
        ]
        for output, tokens in zip(outputs, sample(holder, outputs, made, wanted), strict=True):
            output += tokens
    return [output[:MOST] for output in outputs]


@pytest.mark.parametrize("begins", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("right", [0, 1, 3])
def test_budgets_end_where_they_end_without_drafts(
    monkeypatch: pytest.MonkeyPatch, right: int, begins: int | None
) -> None:
    """Requests think from the first token on, or begin to at some token that may be a draft."""
    budgets, wanted = [5, 0, 3, 9], [WORD] * 200
    prompt = [1, START] if begins is None else [1]
    if begins is not None:
        wanted[begins] = START
    monkeypatch.setattr(LMTPProposer, "in_use", False)
    plain = write(budgets, 0, 0, prompt, wanted)
    first = 0 if begins is None else begins + 1
    assert [output.index(END[0]) for output in plain] == [first + budget for budget in budgets]
    monkeypatch.setattr(LMTPProposer, "in_use", True)
    assert write(budgets, 3, right, prompt, wanted) == plain


@pytest.mark.parametrize(("tokens", "calls"), [(10, 11), (thinking_budgets.REPLAYED + 9, 1)])
def test_a_request_that_comes_back_does_not_hold_up_the_others(tokens: int, calls: int) -> None:
    """Preempted, it has lost its state; each token gone through again costs more than the last."""
    seen: list[int] = []

    def original(holder: Any, outputs: list[list[int]], _: Any) -> None:
        seen.append(len(outputs[0]))

    holder = holder_of([5], 3, [WORD])
    thinking_budgets.update(original, holder, [[WORD] * tokens], [[]])
    assert (len(seen), seen[-1]) == (calls, tokens)
    thinking_budgets.update(original, holder, [[WORD] * (tokens + 2)], [[WORD]])
    assert seen[calls:] == [tokens + 1, tokens + 2, tokens + 3]


def test_other_drafters_budgets_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LMTPProposer, "in_use", False)
    given = []
    for changed in (_update_state, _apply_to_logits):
        assert changed(lambda *args: given.append(args), object(), (1, 2, 3), {}) is None
    assert given == [(1, 2, 3)] * 2


# --- named tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize("in_use", [True, False])
@pytest.mark.parametrize("dims", [(2, 3), (2, 0), None])
def test_v2_scores_each_part_of_a_batch_with_its_own_rows(
    in_use: bool, dims: tuple[int, int] | None
) -> None:
    sampler = SimpleNamespace(
        get_logprobs_dims=lambda requests: dims, logprob_token_ids_state="state"
    )
    verifier = SimpleNamespace(sampler=sampler, lmtp_in_use=in_use)
    batch = SimpleNamespace(idx_mapping_np=None, expanded_idx_mapping=torch.tensor([4, 4, 9, 9, 9]))
    asked: list[Any] = []

    def scores(logits: torch.Tensor, most: int, *more: Any, logits_mode: bool) -> None:
        state, rows, tokens = more or (None, torch.empty(0), 0)
        asked.append((most, state, rows.tolist(), tokens))

    def score(_: Any, __: Any, logits: torch.Tensor, most: int) -> None:
        token_logprobs_v2._scores(scores, None, (logits, most), {"logits_mode": False})

    def call(logits: torch.Tensor, batch: Any) -> None:
        for part in (logits[:2], logits[2:]):
            token_logprobs_v2._scored(score, verifier, (None, None, part, -1), {})

    token_logprobs_v2._call(call, verifier, (torch.zeros(5, 7), batch), {})
    named = in_use and dims == (2, 3)
    untouched = [(-1, None, [], 0)] * 2
    assert asked == ([(2, "state", [4, 4], 3), (2, "state", [9, 9, 9], 3)] if named else untouched)


# --- input in parts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "resumable", "computed", "placeholders", "kept"),
    [
        ("lmtp", True, 12, 0, 9),  # ten tokens, of which the last is not computed
        ("lmtp", True, 9, 0, 9),
        ("lmtp", True, 12, 2, 11),  # two more are on their way, and are taken off by vLLM
        ("lmtp", False, 12, 0, 12),
        ("ngram", True, 12, 0, 12),
        (None, True, 12, 0, 12),
    ],
)
def test_nothing_behind_the_answer_counts_as_computed(
    method: str | None, resumable: bool, computed: int, placeholders: int, kept: int
) -> None:
    config = method and SimpleNamespace(method=method)
    scheduler = SimpleNamespace(vllm_config=SimpleNamespace(speculative_config=config))
    request = SimpleNamespace(
        resumable=resumable,
        num_tokens=10,
        num_computed_tokens=computed,
        num_output_placeholders=placeholders,
    )
    assert _stopped(lambda it: it.num_computed_tokens, scheduler, (request,), {}) == kept


# --- tokens behind a stop string ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_use", "stop", "counted"), [(True, ["."], 9), (True, [], 15), (False, ["."], 15)]
)
def test_what_is_given_is_counted(in_use: bool, stop: list[str], counted: int) -> None:
    detokenizer = SimpleNamespace(stop=stop, num_output_tokens=lambda: 9)
    request = SimpleNamespace(
        detokenizer=detokenizer, stats=SimpleNamespace(num_generation_tokens=15)
    )
    iteration = SimpleNamespace(num_generation_tokens=100)
    told: list[int] = []

    def wrapped(request: Any, reason: str, iteration: Any) -> None:
        told.append(request.stats.num_generation_tokens)

    _finished(wrapped, SimpleNamespace(lmtp_in_use=in_use), (request, "stop", iteration), {})
    assert told == [counted]
    assert iteration.num_generation_tokens == 100 - 15 + counted


def test_without_statistics_nothing_is_counted() -> None:
    request = SimpleNamespace(detokenizer=SimpleNamespace(stop=["."]), stats=None)
    told: list[Any] = []
    processor = SimpleNamespace(lmtp_in_use=True)
    _finished(lambda *args: told.append(args), processor, (request, "stop", None), {})
    assert told == [(request, "stop", None)]
