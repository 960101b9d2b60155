"""Hidden states of one request that are no numbers: the others draft as if nothing had happened."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.faults.proposer import Request, make_proposer, propose, rows
from tests.support.one_rank_world import one_process_world  # noqa: F401
from tests.support.speculators import (
    MAX_REQS,
    VOCAB,
    keyed_sample,
    make_decoder,
    make_speculator,
    make_states,
    make_step,
    sources_of,
    write_texts,
)

BAD = [float("nan"), -float("inf")]
SCORERS = ["none", "markov", "recurrent", "table"]
CHOICES = ["best", "confident", "drawn", "confident and drawn"]


def spoilt(step: dict[str, Any], request: int, value: float) -> dict[str, Any]:
    """The step with every row of one request spoilt."""
    bounds = step["input_batch"].query_start_loc
    hidden = step["last_hidden_states"].clone()
    hidden[bounds[request] : bounds[request + 1]] = value
    return {**step, "last_hidden_states": hidden}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", SCORERS)
@pytest.mark.parametrize("copies", [True, False])
def test_on_runner_v2(
    kind: str, choice: str, value: float, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step after step, while one request's rows are spoilt in every other one."""
    monkeypatch.setattr("vllm_lmtp.runner_v2.seeded.gumbel_sample", keyed_sample)
    states = make_states() if copies else None
    sound, ill = (make_speculator(make_decoder(kind, 3, 2, states=states), choice) for _ in "ab")
    drafted = set()
    for seed in range(8):
        if copies:
            write_texts(states, seed)
        step = make_step(5, seed)
        slots = step["input_batch"].idx_mapping.tolist()
        victim = 2
        other = [row for row in range(5) if row != victim]
        wanted = sound.propose(**copy.deepcopy(step)).clone()
        got = ill.propose(**spoilt(step, victim, value) if seed % 2 else step).clone()
        # Both have reset the victim's slot since, so every other slot is as it would have been.
        assert all(_same_tail(sound, ill, slots[row]) for row in other)
        assert torch.equal(wanted[other], got[other])
        assert ((got >= 0) & (got < 2 * VOCAB)).all()
        if "confident" in choice:
            probabilities = (s.draft_token_confidence_probs[other] for s in (sound, ill))
            assert torch.equal(*probabilities)
        if copies:
            told = [sources_of(s) for s in (sound, ill)]
            for row in other:
                name = f"of slot {slots[row]}"
                assert told[0].get(name) == told[1].get(name)
        drafted.update(wanted[other].flatten().tolist())
        for speculator in (sound, ill):  # as when the request ends and its slot is given away
            speculator.decoder.history.reset(slots[victim])
    assert len(drafted) > 20, "drafts that never vary would prove nothing"


def _same_tail(one: Any, other: Any, slot: int) -> bool:
    return torch.equal(one.decoder.history.tails[slot], other.decoder.history.tails[slot])


def test_the_next_request_of_a_spoilt_slot() -> None:
    """Its tail is not read: it was reset, and a tail that is no number is not multiplied by 0."""
    fresh, used = (make_speculator(make_decoder("recurrent", 3, 2)) for _ in "ab")
    first, second = make_step(MAX_REQS, 1), make_step(MAX_REQS, 2)
    for request in range(MAX_REQS):
        first = spoilt(first, request, float("nan"))
    used.propose(**first)
    assert used.decoder.history.tails[:MAX_REQS].isnan().all()
    for slot in range(MAX_REQS):
        used.decoder.history.reset(slot)
    assert torch.equal(fresh.propose(**second), used.propose(**second))
    assert not used.decoder.history.tails[:MAX_REQS].isnan().any()


TEXT = [3, 8, 9, 3, 8, 20, 21, 3, 8]


def requests(step: int, names: str = "abcd") -> list[Request]:
    """Requests of three rows in the first step, then of one each; "c" repeats itself."""
    return [
        Request(
            name,
            [*(TEXT if name == "c" else range(9 * place, 9 * place + 9)), *range(30, 30 + step)],
            rows(1 if step else 3, 100 * step + place),
            new=not step,
            temperature=0.0,
        )
        for place, name in enumerate(names)
    ]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("least", [0.0, 1e-4])
@pytest.mark.parametrize("kind", SCORERS)
def test_on_runner_v1(kind: str, least: float, value: float) -> None:
    """From the second of three steps on one request's rows are spoilt, and a new one follows it."""
    sound, ill = (make_proposer(kind, least=least) for _ in "ab")
    drafted = set()
    for step in range(3):
        batch = requests(step)
        bad = [
            replace(r, hidden=torch.full_like(r.hidden, value)) if step and r.name == "b" else r
            for r in batch
        ]
        wanted, got = propose(sound, batch), propose(ill, bad)
        for row, request in enumerate(batch):
            if request.name != "b":
                assert wanted[row] == got[row]
                drafted.update(got[row])
            assert all(0 <= token < 2 * VOCAB for token in got[row])
        if least and step == 2:  # in step 1 the first place still reads a sound row
            assert got[1] == [], "nothing that is no number is worth a row"
    assert len(drafted) > 5
    # The slot goes to a request that begins, and to none of the others.
    newcomer = Request("e", [*range(40, 49)], rows(2, 7), new=True)
    after = [r for r in requests(3) if r.name != "b"] + [newcomer]
    assert propose(sound, after, finished=["b"]) == propose(ill, after, finished=["b"])


def test_drawn_drafts_on_runner_v1() -> None:
    """Each request draws with its own generator, so nobody's numbers shift."""
    sound, ill = (make_proposer("markov", draws=True) for _ in "ab")
    for step in range(2):
        batch = [replace(r, temperature=1.0) for r in requests(step)]
        nan = [replace(r, hidden=r.hidden * float("nan")) if r.name == "b" else r for r in batch]
        wanted, got = propose(sound, batch), propose(ill, nan)
        others = [0, 2, 3]
        assert [wanted[row] for row in others] == [got[row] for row in others]
        assert all(0 <= token < 2 * VOCAB for draft in got for token in draft)
        probabilities = [made.runner._draft_probs[others] for made in (sound, ill)]
        assert torch.equal(*probabilities)
        assert probabilities[1].isfinite().all()
