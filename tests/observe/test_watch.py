"""What the scheduler's watch notes, with stand-ins for the scheduler."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.spec_decode.metrics import SpecDecodingStats

from vllm_lmtp.method.copying import Origin
from vllm_lmtp.observe import watch
from vllm_lmtp.observe.carried import cold_drafts, copied_tokens

DRAFTS = 6


def make_scheduler(stride: int = 3, method: str = "lmtp", **num_tokens: int) -> Any:
    """num_tokens: for each request, its tokens including the one just sampled."""
    config = SimpleNamespace(method=method, lmtp_stride=stride, model="heads")
    target = SimpleNamespace(model="target")
    return SimpleNamespace(
        vllm_config=SimpleNamespace(speculative_config=config, model_config=target),
        requests={r: SimpleNamespace(num_tokens=n) for r, n in num_tokens.items()},
    )


def step(
    new: dict[str, int] | None = None,
    cached: dict[str, int] | None = None,
    resumed: tuple[str, ...] = (),
) -> Any:
    """A scheduler output; numbers are computed tokens."""
    cached = cached or {}
    return SimpleNamespace(
        scheduled_new_reqs=[
            SimpleNamespace(req_id=r, num_computed_tokens=n) for r, n in (new or {}).items()
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(cached),
            num_computed_tokens=list(cached.values()),
            resumed_req_ids=set(resumed),
        ),
    )


def judge(scheduler: Any, req_id: str, drafted: int = DRAFTS, accepted: int = 1) -> int:
    """Cold drafts noted for one verdict."""
    stats = SpecDecodingStats.new(DRAFTS)
    watch.note_verdict(scheduler, stats, drafted, accepted, None, req_id)
    return cold_drafts(stats)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("start", [0, 16])
@pytest.mark.parametrize("computed", range(6))
def test_cold_if_and_only_if_fewer_than_k_positions_are_known(
    stride: int, start: int, computed: int
) -> None:
    scheduler = make_scheduler(stride, a=start + computed + 1)
    watch.note_admissions(scheduler, step(new={"a": start}))
    assert judge(scheduler, "a") == int(computed < stride)


def test_resumed_requests_start_anew_and_running_ones_do_not() -> None:
    scheduler = make_scheduler(3, resumed=11, running=11)
    watch.note_admissions(scheduler, step(new={"resumed": 0, "running": 0}))
    watch.note_admissions(
        scheduler, step(cached={"running": 9, "resumed": 9}, resumed=("resumed",))
    )
    assert (judge(scheduler, "resumed"), judge(scheduler, "running")) == (1, 0)


def test_request_that_was_never_seen_counts_from_its_first_position() -> None:
    scheduler = make_scheduler(3, a=3, b=4)
    assert (judge(scheduler, "a"), judge(scheduler, "b")) == (1, 0)


def test_steps_without_drafts_are_not_judged() -> None:
    scheduler = make_scheduler(3, a=1)
    assert judge(scheduler, "a", drafted=0, accepted=0) == 0
    assert not hasattr(scheduler, "lmtp_refused")


def test_other_methods_are_left_alone() -> None:
    scheduler = make_scheduler(3, method="ngram", a=1)
    watch.note_admissions(scheduler, step(new={"a": 0}))
    assert judge(scheduler, "a") == 0
    assert not hasattr(scheduler.requests["a"], "lmtp_start")

    scheduler.vllm_config.speculative_config = None
    assert judge(scheduler, "a") == 0


def test_statistics_may_be_off() -> None:
    scheduler = make_scheduler(3, a=1)
    watch.note_verdict(scheduler, None, DRAFTS, 0, None, "a")
    assert scheduler.lmtp_refused == 1


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(
        watch.logger, "warning_once", lambda text, *args, **_: lines.append(text % args)
    )
    return lines


def test_heads_that_never_help_are_warned_about_once(warnings: list[str]) -> None:
    scheduler = make_scheduler(3, a=20)
    for _ in range(299):
        judge(scheduler, "a", accepted=0)
    assert warnings == []

    for _ in range(400):
        judge(scheduler, "a", accepted=0)

    (line,) = warnings
    assert "300 drafts in a row" in line
    assert "stride is not 3" in line
    assert "doctor --heads heads --target target" in line


def test_one_accepted_draft_starts_the_count_anew(warnings: list[str]) -> None:
    scheduler = make_scheduler(3, a=20)
    for round_accepted in (1, 0):
        for _ in range(299):
            judge(scheduler, "a", accepted=0)
        judge(scheduler, "a", accepted=1 + round_accepted)
    assert warnings == []


def test_models_that_count_drafts_without_speculation_are_left_alone() -> None:
    """vLLM's diffusion models report draft tokens and have no speculative config."""
    scheduler = make_scheduler(a=5)
    scheduler.vllm_config.speculative_config = None
    watch.note_admissions(scheduler, step(new={"a": 0}))
    watch.note_verdict(scheduler, None, 4, 0, None, "a")
    assert not hasattr(scheduler.requests["a"], "lmtp_start")


# --- what was copied ------------------------------------------------------------------------------

DRAFT = [Origin.TEXT, Origin.BOTH, Origin.TEXT, Origin.TEXT, Origin.AGAINST_TEXT, Origin.TEXT]


def copied(scheduler: Any, drafted: int, accepted: int) -> tuple[int, int]:
    """Copied tokens noted for one verdict on request `a`."""
    stats = SpecDecodingStats.new(DRAFTS)
    watch.note_verdict(scheduler, stats, drafted, accepted, None, "a")
    return copied_tokens(stats)


@pytest.mark.parametrize(
    ("drafted", "accepted", "wanted"),
    [
        (6, 6, (4, 4)),
        (6, 0, (4, 0)),
        (6, 3, (4, 2)),
        (3, 3, (2, 2)),
        (1, 1, (1, 1)),
        (5, 2, (3, 1)),
    ],
)
def test_copied_tokens_are_those_that_were_judged(
    drafted: int, accepted: int, wanted: tuple[int, int]
) -> None:
    """A schedule may leave a draft's tail out, and of the rest a part is refused."""
    scheduler = make_scheduler(3, a=20)
    scheduler.requests["a"].lmtp_origins = DRAFT
    assert copied(scheduler, drafted, accepted) == wanted


def test_requests_are_counted_together_in_a_step() -> None:
    scheduler, stats = make_scheduler(3, a=20, b=20), SpecDecodingStats.new(DRAFTS)
    scheduler.requests["a"].lmtp_origins = DRAFT
    scheduler.requests["b"].lmtp_origins = [Origin.TEXT] * 6
    for req_id, accepted in (("a", 1), ("b", 4)):
        watch.note_verdict(scheduler, stats, DRAFTS, accepted, None, req_id)
    assert copied_tokens(stats) == (10, 5)


def test_drafts_of_the_heads_alone_say_nothing_of_copies() -> None:
    scheduler = make_scheduler(3, a=20)
    for of_heads in (None, (), [Origin.HEADS, Origin.AGAINST_TEXT, Origin.BOTH] * 2):
        if of_heads is not None:
            scheduler.requests["a"].lmtp_origins = of_heads
        stats = SpecDecodingStats.new(DRAFTS)
        watch.note_verdict(scheduler, stats, DRAFTS, 1, None, "a")
        assert stats.num_draft_tokens_per_pos == [0] * DRAFTS


def test_a_preempted_request_forgets_its_draft() -> None:
    """Nobody judges it, and vLLM pads a resumed request with drafts that nobody made."""
    scheduler = make_scheduler(3, a=20, b=20)
    watch.note_admissions(scheduler, step(new={"a": 0, "b": 0}))
    for req_id in ("a", "b"):
        scheduler.requests[req_id].lmtp_origins = DRAFT
    watch.note_admissions(scheduler, step(cached={"b": 19, "a": 0}, resumed=("a",)))
    assert copied(scheduler, 6, 3) == (0, 0)
    assert scheduler.requests["b"].lmtp_origins == DRAFT
    scheduler.requests["a"].lmtp_origins = DRAFT  # of a draft after that
    assert copied(scheduler, 6, 3) == (4, 2)


def test_copies_are_not_counted_where_statistics_are_off() -> None:
    scheduler = make_scheduler(3, a=20)
    scheduler.requests["a"].lmtp_origins = DRAFT
    watch.note_verdict(scheduler, None, DRAFTS, 0, None, "a")
    assert scheduler.lmtp_refused == 1


def test_copies_that_a_grammar_ruled_out_are_not_counted() -> None:
    """vLLM counts the draft without them, and a counter of the others must not go down."""
    scheduler = make_scheduler(2, a=20)
    scheduler.requests["a"].lmtp_origins = [Origin.TEXT] * DRAFTS
    stats = SpecDecodingStats.new(DRAFTS)
    stats.observe_draft(num_draft_tokens=DRAFTS - 4, num_accepted_tokens=1)
    watch.note_verdict(scheduler, stats, DRAFTS, 1, {"a": 4}, "a")
    assert copied_tokens(stats) == (DRAFTS - 4, 1)
    assert stats.num_draft_tokens == DRAFTS - 4
