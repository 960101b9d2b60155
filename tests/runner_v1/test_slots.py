"""The slot table under any order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vllm_lmtp.runner_v1.slots import SlotTable

IDS = [f"r{i}" for i in range(8)]
BATCH = 3

events = st.lists(
    st.tuples(
        st.sets(st.sampled_from(IDS), max_size=3),  # ended, preempted or restarted
        st.lists(st.sampled_from(IDS), unique=True, max_size=BATCH),  # the batch
        st.sets(st.sampled_from(IDS)),  # requests the runner still knows beside the batch
    ),
    max_size=30,
)


@given(events, st.integers(BATCH, 2 * BATCH))
def test_slots_are_bounded_distinct_and_fresh_when_they_change_hands(
    steps: list[tuple[set[str], list[str], set[str]]], num_slots: int
) -> None:
    table = SlotTable(num_slots)
    owner: dict[int, str] = {}  # slot -> the request it was last reset for
    for gone, batch, known in steps:
        table.forget(gone)
        for slot in [s for s, req_id in owner.items() if req_id in gone]:
            del owner[slot]

        slots, fresh = table.assign(batch, known | set(batch))

        assert len(slots) == len(set(slots)) == len(batch)
        assert all(0 <= slot < num_slots for slot in slots)
        assert set(fresh) <= set(slots)
        for req_id, slot in zip(batch, slots, strict=True):
            if slot in fresh:
                owner[slot] = req_id
            assert owner[slot] == req_id


@given(events)
def test_no_request_loses_its_slot_while_there_is_room(
    steps: list[tuple[set[str], list[str], set[str]]],
) -> None:
    table = SlotTable(len(IDS))
    held: dict[str, int] = {}
    for gone, batch, _ in steps:
        table.forget(gone)
        held = {req_id: slot for req_id, slot in held.items() if req_id not in gone}

        slots, fresh = table.assign(batch, ())

        now = dict(zip(batch, slots, strict=True))
        assert {r: s for r, s in now.items() if s not in fresh} == {
            r: s for r, s in held.items() if r in now
        }
        held |= now


def test_dead_requests_make_room_before_waiting_ones() -> None:
    table = SlotTable(3)
    (dead, waiting, running), _ = table.assign(["dead", "waiting", "running"], ())

    slots, fresh = table.assign(["running", "new"], {"waiting", "running", "new"})
    assert (slots, fresh) == ([running, dead], [dead])

    slots, fresh = table.assign(["waiting"], {"waiting", "running", "new"})
    assert (slots, fresh) == ([waiting], [])


def test_waiting_requests_make_room_for_the_batch() -> None:
    table = SlotTable(2)
    (waiting, running), _ = table.assign(["waiting", "running"], ())

    slots, fresh = table.assign(["running", "new"], {"waiting", "running", "new"})

    assert (slots, fresh) == ([running, waiting], [waiting])


def test_forgetting_twice_frees_a_slot_once() -> None:
    table = SlotTable(2)
    table.assign(["a"], ())
    table.forget(["a", "a", "unknown"])

    slots, _ = table.assign(["b", "c"], ())

    assert sorted(slots) == [0, 1]
