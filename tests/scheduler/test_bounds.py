"""Bounds of single requests: who is looked at, and what is dropped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_lmtp.scheduler import bounds


def _request(bound: int | None, drafts: list[int]) -> Any:
    extra = None if bound is None else {bounds.ARGUMENT: bound}
    params = SimpleNamespace(extra_args=extra)
    return SimpleNamespace(sampling_params=params, spec_token_ids=drafts)


@pytest.mark.parametrize(("bound", "left"), [(None, 3), (0, 0), (2, 2), (9, 3)])
def test_drafts_beyond_the_bound_are_dropped(bound: int | None, left: int) -> None:
    shared = [1, 2, 3]
    request, scheduler = _request(bound, shared), SimpleNamespace(running=[])
    bounds.added(scheduler, request)
    scheduler.running.append(request)
    bounds.keep(scheduler)
    assert request.spec_token_ids == shared[:left]
    assert shared == [1, 2, 3]  # which others may hold, too


def test_requests_that_wait_cost_nothing() -> None:
    class Waiting:
        sampling_params = SimpleNamespace(extra_args={bounds.ARGUMENT: 1})

        @property
        def spec_token_ids(self) -> list[int]:
            pytest.fail("looked at")

    scheduler = SimpleNamespace(running=[_request(None, [1])], waiting=[Waiting()])
    bounds.added(scheduler, scheduler.waiting[0])
    bounds.keep(scheduler)


def test_without_bounds_nobody_is_looked_at() -> None:
    bounds.keep(SimpleNamespace())
