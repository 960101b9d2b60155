"""`History` against an oracle that keeps every row it was ever given."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_lmtp.method.history import History
from vllm_lmtp.method.lazy_history import MOST, LazyHistory

SLOTS = 4
HIDDEN = 2


@dataclass(frozen=True)
class Event:
    """What happens to the request in `slot` before and in a step.

    before: "" (goes on), "preempted" or "replaced" (the slot is reset, position `jump`), "skipped"
    (`jump` positions computed without the history), "moved" (position `jump`, slot not reset).
    kept, rejected: rows of the step; with kept = 0 the request is not in the batch.
    """

    slot: int
    before: str
    jump: int
    kept: int
    rejected: int


@dataclass
class Oracle:
    """All rows of each slot since its last reset, as one unbroken run of positions."""

    stride: int
    rows: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    end: dict[int, int] = field(default_factory=dict)

    def reset(self, slot: int) -> None:
        self.rows[slot] = []

    def advance(self, slot: int, start: int, kept: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Rows at lags k-1..0 and how many of them are known."""
        if self.end.get(slot) != start - 1:
            self.reset(slot)
        run = self.rows.setdefault(slot, [])
        run.extend(kept)
        self.end[slot] = start + len(kept) - 1
        known = min(self.stride, len(run))
        lags = range(self.stride - 1, -1, -1)
        return torch.stack([run[-1 - min(lag, known - 1)] for lag in lags]), known


class Rig:
    """Feeds the same events to the history and the oracle. Every row ever made is unique."""

    def __init__(
        self, stride: int, dtype: torch.dtype = torch.float32, kind: type[History] = History
    ) -> None:
        self.history = kind(SLOTS, stride, HIDDEN, dtype, "cpu")
        self.oracle = Oracle(stride)
        self.position = [0] * SLOTS
        self.made = 0

    def make_rows(self, count: int) -> torch.Tensor:
        numbers = torch.arange(self.made, self.made + count)
        self.made += count
        rows = torch.stack([numbers % 256, numbers // 256], dim=-1)
        return rows.to(self.history.tails.dtype)

    def step(self, events: list[Event], num_padded: int = 0, drafts: bool = True) -> None:
        """One step; without drafts its rows are only taken note of, and written over."""
        for event in events:
            self._before(event)
        batch = [event for event in events if event.kept]
        lengths = [event.kept + event.rejected for event in batch]
        hidden = self.make_rows(sum(lengths) + num_padded)
        first = torch.tensor([sum(lengths[:i]) for i in range(len(batch))] + [0] * num_padded)
        arguments = (
            hidden.clone(),
            first.long(),
            torch.tensor([event.kept for event in batch] + [1] * num_padded).long(),
            torch.tensor([self.position[e.slot] for e in batch] + [0] * num_padded).long(),
            torch.tensor([e.slot for e in batch] + [self.history.scratch_slot] * num_padded).long(),
        )
        got = None
        one_each = all((event.kept, event.rejected) == (1, 0) for event in batch) and batch
        if drafts:
            got = self.history.advance(*arguments)
        elif one_each and not num_padded:
            start, slots = ([self.position[e.slot] for e in batch], [e.slot for e in batch])
            self.history.defer_one_each(hidden.clone(), start, slots)
        else:
            self.history.defer(*arguments)
            arguments[0].fill_(-1)
        for i, event in enumerate(batch):
            kept = hidden[first[i] : first[i] + event.kept]
            states, known = self.oracle.advance(event.slot, self.position[event.slot], kept)
            if got is not None:
                assert torch.equal(got.states[i], states), (event, got.states[i], states)
                assert int(got.known[i]) == known, event
            self.position[event.slot] += event.kept

    def _before(self, event: Event) -> None:
        if event.before in ("preempted", "replaced"):
            resumable = self.position[event.slot] if event.before == "preempted" else event.jump
            self.position[event.slot] = min(event.jump, resumable)
            self.history.reset(event.slot)
            self.oracle.reset(event.slot)
        elif event.before == "skipped":
            self.position[event.slot] += event.jump
        elif event.before == "moved":
            self.position[event.slot] = event.jump


def events_of(kinds: tuple[str, ...]) -> st.SearchStrategy[list[tuple[list[Event], int]]]:
    event = st.builds(
        Event,
        slot=st.integers(0, SLOTS - 1),
        before=st.sampled_from(kinds),
        jump=st.integers(0, 9),
        kept=st.integers(0, 6),
        rejected=st.integers(0, 5),
    )
    batch = st.lists(event, max_size=SLOTS, unique_by=lambda e: e.slot)
    return st.lists(st.tuples(batch.filter(bool), st.integers(0, 2)), min_size=1, max_size=12)


ANY_EVENTS = events_of(("", "", "", "preempted", "replaced", "skipped", "moved"))


@settings(max_examples=300, deadline=None)
@given(stride=st.integers(1, 4), steps=ANY_EVENTS)
def test_states_and_known_equal_the_oracle(
    stride: int, steps: list[tuple[list[Event], int]]
) -> None:
    rig = Rig(stride)
    for batch, num_padded in steps:
        rig.step(batch, num_padded)


@pytest.mark.parametrize("kind", [History, LazyHistory])
@settings(max_examples=200, deadline=None)
@given(
    stride=st.integers(1, 4),
    steps=ANY_EVENTS,
    drafting=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_steps_without_drafts_leave_no_gap(
    kind: type[History],
    stride: int,
    steps: list[tuple[list[Event], int]],
    drafting: list[bool],
) -> None:
    """Whatever steps draft, those that do read what the oracle says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vllm_lmtp.method.lazy_history.MOST", 12)
        rig = Rig(stride, kind=kind)
        for (batch, num_padded), drafts in zip(steps, drafting, strict=False):
            rig.step(batch, num_padded, drafts)
        rig.step([Event(slot, "", 0, 1, 0) for slot in range(SLOTS)])


@settings(max_examples=30, deadline=None)
@given(stride=st.integers(2, 4), steps=events_of(("",)))
def test_unbroken_requests_are_cold_only_before_their_kth_position(
    stride: int, steps: list[tuple[list[Event], int]]
) -> None:
    rig = Rig(stride, torch.bfloat16)
    for batch, num_padded in steps:
        rig.step(batch, num_padded)
        for event in batch:
            expected = min(rig.position[event.slot], stride - 1)
            assert int(rig.history.tail_len[event.slot]) == expected


def advance_one(
    history: History, rows: list[float], start: int, kept: int | None = None, slot: int = 0
) -> tuple[list[float], int]:
    """One step of one request whose rows are single numbers: (lags k-1..0, known)."""
    got = history.advance(
        torch.tensor(rows).unsqueeze(1),
        torch.tensor([0]),
        torch.tensor([len(rows) if kept is None else kept]),
        torch.tensor([start]),
        torch.tensor([slot]),
    )
    return got.states[0, :, 0].tolist(), int(got.known[0])


def numbers_history(stride: int, num_slots: int = 2) -> History:
    return History(num_slots, stride, 1, torch.float32, "cpu")


def test_rejected_rows_leave_no_trace() -> None:
    history = numbers_history(3)
    advance_one(history, [0.0, 1.0, 2.0], start=0)
    assert advance_one(history, [3.0, -1.0, -2.0], start=3, kept=1) == ([1.0, 2.0, 3.0], 3)
    assert advance_one(history, [4.0, 5.0, -3.0], start=4, kept=2) == ([3.0, 4.0, 5.0], 3)


def test_unknown_lags_repeat_the_oldest_known_row() -> None:
    history = numbers_history(4)
    assert advance_one(history, [7.0], start=5) == ([7.0, 7.0, 7.0, 7.0], 1)
    assert advance_one(history, [8.0], start=6) == ([7.0, 7.0, 7.0, 8.0], 2)
    assert advance_one(history, [9.0], start=7) == ([7.0, 7.0, 8.0, 9.0], 3)
    assert advance_one(history, [10.0], start=8) == ([7.0, 8.0, 9.0, 10.0], 4)


def test_tail_is_dropped_after_a_skipped_step() -> None:
    history = numbers_history(2)
    advance_one(history, [0.0, 1.0], start=0)
    assert advance_one(history, [3.0], start=3) == ([3.0, 3.0], 1)


def test_scratch_rows_touch_no_slot() -> None:
    history = numbers_history(2)
    advance_one(history, [1.0], start=0, slot=1)
    advance_one(history, [9.0], start=1, slot=history.scratch_slot)
    assert advance_one(history, [2.0], start=1, slot=1) == ([1.0, 2.0], 2)


def test_stride_one_keeps_nothing() -> None:
    history = numbers_history(1)
    assert advance_one(history, [1.0, 2.0, -1.0], start=0, kept=2) == ([2.0], 1)
    assert history.tails.numel() == 0


def test_fresh_slot_does_not_join_at_position_zero() -> None:
    """tail_end starts at -1, which is exactly one before position 0; only tail_len says no."""
    assert advance_one(numbers_history(2), [5.0], start=0) == ([5.0, 5.0], 1)


def test_reset_is_what_keeps_requests_apart_when_positions_agree() -> None:
    """Request B starts behind a cached prefix, where request A's tail happens to end."""
    with_reset, without = numbers_history(2), numbers_history(2)
    for history in (with_reset, without):
        advance_one(history, [1.0, 2.0], start=0)
    with_reset.reset(0)

    assert advance_one(with_reset, [9.0], start=2) == ([9.0, 9.0], 1)
    assert advance_one(without, [9.0], start=2) == ([2.0, 9.0], 2)


@pytest.mark.parametrize("stride", [2, 3])
def test_drafting_resumes_warm_after_any_number_of_steps_without(stride: int) -> None:
    """Two requests run all along; a third waited too long, and is cold rather than wrong."""
    rig = Rig(stride, kind=LazyHistory)
    rig.step([Event(slot, "", 0, 4, 1) for slot in range(3)])
    rig.step([Event(slot, "", 0, 1, 0) for slot in range(3)], drafts=False)
    for _ in range(3 * MOST):
        rig.step([Event(slot, "", 0, 1, 0) for slot in range(2)], drafts=False)
    assert int(rig.history.tail_end[0]) == 3  # nothing was joined meanwhile
    rig.oracle.reset(2)
    rig.step([Event(slot, "", 0, 1, 0) for slot in range(3)])


def test_resets_between_steps_without_drafts_are_kept_in_order() -> None:
    """Also when the steps are forgotten: a slot changes hands where positions agree."""
    for steps_after in (0, 1, MOST, 2 * MOST):
        rig = Rig(2, kind=LazyHistory)
        rig.step([Event(0, "", 0, 3, 0)])
        rig.step([Event(1, "", 0, 1, 0)], drafts=False)
        # The slot is given away at once, and its new request runs only after the others.
        rig.step([Event(0, "replaced", 3, 0, 0), Event(1, "", 0, 1, 0)], drafts=False)
        for _ in range(steps_after):
            rig.step([Event(1, "", 0, 1, 0)], drafts=False)
        rig.step([Event(0, "", 0, 1, 0), Event(1, "", 0, 1, 0)])


def replaced_where_the_tail_ends(rig: Rig) -> None:
    rig.step([Event(0, "", 0, kept=3, rejected=0)])
    rig.step([Event(0, "replaced", 3, kept=1, rejected=0)])


def rejected_rows_then_one_more(rig: Rig) -> None:
    rig.step([Event(0, "", 0, kept=2, rejected=2)])
    rig.step([Event(0, "", 0, kept=1, rejected=0)])


def test_the_oracle_notices_a_forgotten_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced_where_the_tail_ends(Rig(2))
    monkeypatch.setattr(History, "reset", lambda self, slot: None)
    with pytest.raises(AssertionError):
        replaced_where_the_tail_ends(Rig(2))


def test_the_oracle_notices_a_tail_that_ends_with_rejected_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rejected_rows_then_one_more(Rig(2))
    advance = History.advance

    def with_all_rows_kept(self: History, hidden, first, kept, start, slots):  # type: ignore[no-untyped-def]
        return advance(self, hidden, first, torch.full_like(kept, len(hidden)), start, slots)

    monkeypatch.setattr(History, "advance", with_all_rows_kept)
    with pytest.raises(AssertionError):
        rejected_rows_then_one_more(Rig(2))


def test_the_oracle_notices_a_tail_that_joins_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [[Event(0, "", 0, 2, 0)], [Event(0, "skipped", 1, 1, 0)]]
    advance = History.advance

    def joins_anywhere(self: History, hidden, first, kept, start, slots):  # type: ignore[no-untyped-def]
        self.tail_end[slots] = start - 1
        return advance(self, hidden, first, kept, start, slots)

    monkeypatch.setattr(History, "advance", joins_anywhere)
    rig = Rig(2)
    rig.step(steps[0])
    with pytest.raises(AssertionError):
        rig.step(steps[1])


def test_everything_that_must_survive_sleep_is_a_buffer() -> None:
    """vLLM's deep sleep saves and restores buffers; any other tensor would come back as garbage."""
    history = History(2, 3, 4, torch.float32, "cpu")
    tensors = {name for name, value in vars(history).items() if isinstance(value, torch.Tensor)}
    assert not tensors
    assert {name for name, _ in history.named_buffers()} == {
        "tails",
        "tail_len",
        "tail_end",
        "lags",
    }
    assert not history.state_dict()
