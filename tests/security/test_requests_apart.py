"""What one request says reaches no other's draft, whatever shares its batch or had its slot."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.proposer import Request, make_proposer, propose, rows
from tests.support.one_rank_world import one_process_world  # noqa: F401
from tests.support.speculators import (
    LONGEST_TEXT,
    MAX_REQS,
    make_decoder,
    make_speculator,
    make_states,
    make_step,
    sources_of,
)
from vllm_lmtp.method.copying import NO_TOKEN, Origin, copied

PLACES = 6
OWN = range(12)
"""Tokens of one request; every other one has tokens of its own, so a copy says whose it is."""


def text_of(slot: int, seed: int) -> list[int]:
    """A text that repeats itself, of tokens that no other slot's text has."""
    seeded = torch.Generator().manual_seed(1000 * slot + seed)
    length = int(torch.randint(4, LONGEST_TEXT, (1,), generator=seeded))
    return (12 * slot + torch.randint(0, 3, (length,), generator=seeded)).tolist()


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_a_copy_depends_on_its_own_text_alone(data: st.DataObject) -> None:
    texts = st.lists(st.integers(NO_TOKEN, 4), min_size=10, max_size=10)
    table = torch.tensor([data.draw(texts) for _ in range(4)], dtype=torch.int32)
    row, longest = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 9))
    others = torch.tensor([data.draw(texts) for _ in range(4)], dtype=torch.int32)
    others[row] = table[row]
    one, other = copied(table, PLACES, longest), copied(others, PLACES, longest)
    assert torch.equal(one.tokens[row], other.tokens[row])
    assert one.lengths[row] == other.lengths[row]


def write(states: Any, texts: list[list[int]]) -> None:
    new = make_states(texts)
    states.all_token_ids.gpu.copy_(new.all_token_ids.gpu)
    states.total_len.gpu.copy_(new.total_len.gpu)


@pytest.mark.parametrize("kind", ["none", "markov", "recurrent", "table"])
def test_on_runner_v2(kind: str) -> None:
    """Each slot copies its own tokens alone, and drafts what it drafts beside any other texts."""
    states = make_states()
    high = (2.0, 4.0, 6.0)  # the text is nearly always believed
    one, other = (make_speculator(make_decoder(kind, 3, 2, states=states, odds=high)) for _ in "ab")
    copies = 0
    for seed in range(10):
        step = make_step(5, seed)
        slots = step["input_batch"].idx_mapping.tolist()
        own, texts = slots[1], [text_of(slot, seed) for slot in range(MAX_REQS)]
        write(states, texts)
        draft = one.propose(**copy.deepcopy(step)).tolist()
        told = sources_of(one)
        for row, slot in enumerate(slots):
            copied_tokens = [
                t
                for t, c in zip(draft[row], told[f"of slot {slot}"], strict=True)
                if c == Origin.TEXT
            ]
            assert set(copied_tokens) <= set(texts[slot])
            copies += len(copied_tokens)
        # The same step beside the same text in every other slot, and beside other hidden states.
        write(states, [texts[own] if s != own else text for s, text in enumerate(texts)])
        bounds = step["input_batch"].query_start_loc.tolist()
        strange = torch.randn_like(step["last_hidden_states"])
        mine = slice(bounds[1], bounds[2])
        strange[mine] = step["last_hidden_states"][mine]
        beside = other.propose(**{**step, "last_hidden_states": strange}).tolist()
        assert beside[1] == draft[1]
        assert sources_of(other)[f"of slot {own}"] == told[f"of slot {own}"]
        for speculator in (one, other):
            for slot in range(MAX_REQS):
                speculator.decoder.history.reset(slot)
    assert copies > 50


def test_a_slot_of_runner_v2_that_is_given_away() -> None:
    """Its next request joins no tail of the last one, though it begins where that one ended."""
    from vllm_lmtp.runner_v2.speculator import LMTPSpeculator

    used, fresh = (make_speculator(make_decoder("recurrent", 3, 2)) for _ in "ab")
    index: dict[str, int] = {}
    req_states = SimpleNamespace(req_id_to_index=index, add_request=index.__setitem__)
    LMTPSpeculator._reset_reused_slots(used, req_states)
    first = make_step(1, 0, [3])
    first["num_rejected"].zero_()
    slot = int(first["input_batch"].idx_mapping[0])
    req_states.add_request("first", slot)
    used.propose(**copy.deepcopy(first))
    second = make_step(1, 1, [1])
    second["num_rejected"].zero_()
    second["input_batch"].idx_mapping[0] = slot
    second["input_batch"].positions = first["input_batch"].positions[-1:] + 1
    joined = used.decoder.history.tails.clone(), copy.deepcopy(used.decoder.history.tail_len)
    req_states.add_request("second", slot)
    assert (
        used.propose(**copy.deepcopy(second)).tolist()
        == fresh.propose(**copy.deepcopy(second)).tolist()
    )
    # Without that it would have joined: the test could fail.
    used.decoder.history.tails, used.decoder.history.tail_len = joined
    used.decoder.history.tail_end[slot] = second["input_batch"].positions[0] - 1
    assert used.propose(**second).tolist() != fresh.propose(**second).tolist()


def batch(seed: int, names: str = "abcd", others: int = 0) -> list[Request]:
    """Requests of disjoint texts; those but "a" are others for another number."""
    found = []
    for place, name in enumerate(names):
        key = seed if name == "a" else seed + 100 * others
        text = text_of(place, key)
        found.append(Request(name, text, rows(1, 10 * key + place), new=True))
    return found


@pytest.mark.parametrize("least", [0.0, 1e-4])
@pytest.mark.parametrize("kind", ["none", "markov", "recurrent"])
def test_on_runner_v1(kind: str, least: float) -> None:
    copies = 0
    for seed in range(12):
        made, beside, alone = (make_proposer(kind, least=least) for _ in range(3))
        now = batch(seed)
        drafts = propose(made, now)
        told = sources_of(made)
        for request, draft in zip(now, drafts, strict=True):
            from_text = [
                t for t, c in zip(draft, told[request.name], strict=False) if c == Origin.TEXT
            ]
            assert set(from_text) <= set(request.text)
            copies += len(from_text)
        strangers = batch(seed, others=1)
        # In another place of the batch, too: nothing depends on the order.
        shuffled = [strangers[2], strangers[0], strangers[1], strangers[3]]
        assert propose(beside, shuffled)[1] == drafts[0]
        assert propose(alone, now[:1])[0] == drafts[0]
    assert copies > 50


def test_the_next_request_of_runner_v1_knows_nothing_of_the_last() -> None:
    """Neither its text, which lies behind the new one's end, nor its hidden states."""
    used, fresh = make_proposer("recurrent"), make_proposer("recurrent")
    first = Request("a", text_of(0, 1)[:10], rows(3, 1), new=True)
    propose(used, [first])
    second = replace(first, name="b", text=[40, 41, *first.text[:8], 50], hidden=rows(1, 2))
    assert propose(used, [second], finished=["a"]) == propose(fresh, [second])
