"""What the controller is told of steps, on a scheduler's outputs written by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_lmtp.length.controller import Controller
from vllm_lmtp.length.plan import CARRIED, Plan
from vllm_lmtp.length.step import Step
from vllm_lmtp.method.copying import Origin
from vllm_lmtp.scheduler.draft_length import DraftLength, install
from vllm_lmtp.scheduler.listener import judged


class Told:
    """Stands for the controller: takes note, and wants what it is given."""

    lengths = (0, 1, 2, 3)
    now = 0.0

    def __init__(self, *wanted: int) -> None:
        self.wanted = list(wanted)
        self.steps: list[Step] = []

    def choose(self, num_requests: int) -> int:
        return self.wanted.pop(0)

    def observe(self, step: Step) -> None:
        self.steps.append(step)

    def passes(self, num_requests: int, seconds: float) -> bool:
        return False

    def price_of_row(self, num_requests: int) -> float | None:
        return 0.25

    def costs_alone(self) -> tuple[float, ...] | None:
        return (0.0, 0.2, 0.1, 0.4)

    def in_use(self, num_requests: int) -> int:
        return 0


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def output(length: DraftLength, drafts: dict[str, int], tokens: int | None = None) -> Any:
    """A step of requests with so many drafts each, as vLLM's scheduler makes it.

    tokens: scheduled in all, where a prompt is among them.
    """
    wanted = length[len(drafts)] if drafts else 3
    made = SimpleNamespace(
        num_scheduled_tokens={name: 1 + count for name, count in drafts.items()},
        scheduled_spec_decode_tokens={name: [-1] * n for name, n in drafts.items() if n},
        total_num_scheduled_tokens=tokens or len(drafts) + sum(drafts.values()),
        num_spec_tokens_to_schedule=wanted,
    )
    length.plan(made)
    return made


def run(
    length: DraftLength,
    clock: Clock,
    step: Any,
    seconds: float,
    verdicts: tuple[tuple[int, int] | tuple[int, int, tuple[int, ...]], ...] = (),
    more: bool = True,
) -> None:
    """The step's output arrives after so long and is read."""
    clock.now += seconds
    took = length.arrived()
    for verdict in verdicts:
        length.verdict(*verdict)
    length.observe(took, step, more)


def started(
    *wanted: int, pipeline: int = 1, text_shows: bool = False
) -> tuple[DraftLength, Told, Clock]:
    told, clock = Told(*wanted), Clock()
    made = DraftLength(told, text_shows, pipeline, clock=clock)  # type: ignore[arg-type]
    return made, told, clock


def test_a_step_is_told_as_it_went() -> None:
    length, told, clock = started(3, 2)
    run(length, clock, output(length, {"a": 0, "b": 0}), 1.0)
    second = output(length, {"a": 3, "b": 2})
    assert getattr(second, CARRIED) == Plan(asked=3, wanted=2, price=0.25)
    run(length, clock, second, 0.5, ((3, 3), (2, 0)))
    assert told.steps == [
        Step(None, 2, 0, asked=0, wanted=3, judged=[0, 0, 0], accepted=[0, 0, 0]),
        Step(0.5, 2, 5, asked=3, wanted=2, judged=[2, 2, 1], accepted=[1, 1, 1]),
    ]


def test_a_request_alone_is_told_what_each_number_of_rows_costs() -> None:
    length, _, _ = started(3, 3)
    assert getattr(output(length, {"a": 0}), CARRIED).costs == (0.0, 0.2, 0.1, 0.4)
    assert getattr(output(length, {"a": 3, "b": 0}), CARRIED).costs is None


def test_drafts_of_heads_show_what_texts_alone_would_have_drafted() -> None:
    length, told, clock = started(3, 3, 3, text_shows=True)
    run(length, clock, output(length, {"a": 0, "b": 0}), 1.0)
    heads, against, both, text = Origin
    verdicts = (
        (3, 3, (text, both, against)),  # three places of a text, of which two are right
        (3, 1, (both, text, text)),  # three, one right
        (2, 2, (against, heads, heads)),  # one, and it was wrong
        (1, 1, (text, text, text)),  # two were not worth their rows
        (3, 3, (heads, heads, heads)),
    )
    run(length, clock, output(length, {"a": 3, "b": 3}), 0.5, verdicts)
    run(length, clock, output(length, {"a": 3, "b": 3}), 0.5)
    assert [step.by_text for step in told.steps] == [
        ([0, 0, 0], [0, 0, 0]),
        ([4, 2, 2], [3, 1, 0]),
        ([0, 0, 0], [0, 0, 0]),
    ]


def test_verdicts_are_of_one_step_only() -> None:
    length, told, clock = started(1, 1, 1)
    for accepted in (1, 0):
        run(length, clock, output(length, {"a": 1}), 0.1, ((1, accepted),))
    assert [list(step.accepted) for step in told.steps] == [[1, 0, 0], [0, 0, 0]]


def test_the_time_after_a_pause_says_nothing() -> None:
    length, told, clock = started(0, 0, 0, 0)
    run(length, clock, output(length, {"a": 0}), 0.1)
    run(length, clock, output(length, {"a": 0}), 0.1, more=False)
    run(length, clock, output(length, {"b": 0}), 60.0)
    run(length, clock, output(length, {"b": 0}), 0.2)
    assert [step.seconds and round(step.seconds, 3) for step in told.steps] == [
        None, 0.1, None, 0.2,
    ]  # fmt: skip


def test_a_step_that_nobody_planned_is_passed_over() -> None:
    """A scheduler of the user's own may not call vLLM's `schedule`."""
    length, told, clock = started(0)
    step = output(length, {"a": 0})
    delattr(step, CARRIED)
    run(length, clock, step, 0.1)
    assert told.steps == []


def test_a_step_of_no_tokens_is_none() -> None:
    """vLLM schedules some while it waits for transfers; they ask nobody for a length, and the next
    step begins when they end."""
    length, told, clock = started(2, 1)
    run(length, clock, output(length, {"a": 0}), 0.1)
    run(length, clock, output(length, {}), 5.0)
    run(length, clock, output(length, {"a": 2}), 0.25)
    assert [step.seconds for step in told.steps] == [None, 0.25]
    assert told.steps[1].asked == 2


def test_a_pipeline_with_one_batch_has_every_other_step_empty() -> None:
    """Its drafts are those of the step before the empty one, and its time is the whole turn's."""
    length, told, clock = started(3, 2, 1, pipeline=2)
    for _ in range(3):
        run(length, clock, output(length, {"a": 0}), 0.25)
        run(length, clock, output(length, {}), 0.0)
    assert [step.asked for step in told.steps] == [0, 3, 2]
    assert [step.seconds for step in told.steps] == [None, 0.25, 0.25]


def test_an_engine_that_was_paused_says_nothing_of_the_step_after() -> None:
    length, told, clock = started(0, 0, 0)
    run(length, clock, output(length, {"a": 0}), 0.25)
    clock.now += 60.0  # its requests wait
    run(length, clock, output(length, {"a": 0}), 0.25)
    run(length, clock, output(length, {"a": 0}), 0.25)
    assert [step.seconds for step in told.steps] == [None, None, 0.25]


def test_prompts_are_told_apart() -> None:
    """And so are the requests that read them, which have no draft that could be judged."""
    length, told, clock = started(0, 0)
    step = output(length, {"a": 0, "b": 2}, tokens=44)
    step.num_scheduled_tokens["c"] = 40
    run(length, clock, step, 0.1)
    run(length, clock, output(length, {"a": 0, "b": 0}), 0.1)
    assert [step.prefill for step in told.steps] == [True, False]
    assert [step.num_requests for step in told.steps] == [2, 2]


def test_drafts_of_a_pipeline_are_those_of_the_batch_before_the_others() -> None:
    length, _, _ = started(3, 1, 2, 0, pipeline=2)
    plans = [getattr(output(length, {name: 0}), CARRIED) for name in "abab"]
    assert [plan.asked for plan in plans] == [0, 0, 3, 1]


def scheduler(**config: Any) -> Any:
    speculative = {
        "method": "lmtp",
        "lmtp_draft_length": "auto",
        "lmtp_draft_length_file": None,
        "draft_choices": (0, 1, 2),
        "num_speculative_tokens": 2,
    }
    return SimpleNamespace(
        vllm_config=SimpleNamespace(
            speculative_config=SimpleNamespace(**(speculative | config)),
            parallel_config=SimpleNamespace(pipeline_parallel_size=1),
        ),
        dynamic_sd_lookup=[0, 0, 1, 2],
    )


def test_it_stands_where_vllm_looks_lengths_up() -> None:
    made = scheduler()
    install(made)
    assert made.dynamic_sd_lookup is made.lmtp_length
    assert isinstance(made.lmtp_length.controller, Controller)
    assert made.dynamic_sd_lookup[3] == 0


@pytest.mark.parametrize("config", [{"lmtp_draft_length": "fixed"}, {"method": "ngram"}])
def test_others_keep_their_schedule(config: dict[str, str]) -> None:
    made = scheduler(**config)
    install(made)
    assert made.dynamic_sd_lookup == [0, 0, 1, 2]
    assert not hasattr(made, "lmtp_length")


def test_where_vllm_allows_no_schedule_there_is_none() -> None:
    """It drops it with data parallelism."""
    made = scheduler()
    made.dynamic_sd_lookup = None
    install(made)
    assert made.dynamic_sd_lookup is None


@pytest.mark.parametrize(
    ("choices", "sampled", "shows"),
    [
        ((0, -2, 1, 2), "greedy", True),
        ((0, -2, 1, 2), "probabilistic", False),
        ((0, 1, 2), "greedy", False),
    ],
)
def test_what_texts_alone_would_draft_is_learnt_from_verdicts(
    choices: tuple[int, ...], sampled: str, shows: bool
) -> None:
    """Where it may be chosen, and drafts are not drawn."""
    made = scheduler(draft_choices=choices, draft_sample_method=sampled)
    install(made)
    assert made.lmtp_length.text_shows == shows
    made.requests = {"a": SimpleNamespace(lmtp_origins=[Origin.TEXT, Origin.BOTH], num_tokens=9)}
    verdict = {"num_draft_tokens": 2, "num_accepted_tokens": 1, "num_invalid_spec_tokens": None}
    judged(made, None, None, request_id="a", **verdict)
    made.lmtp_length.controller = told = Told()
    step = SimpleNamespace(
        num_scheduled_tokens={"a": 3},
        total_num_scheduled_tokens=3,
        scheduled_spec_decode_tokens={"a": [1, 2]},
    )
    setattr(step, CARRIED, Plan(asked=2, wanted=2, price=None))
    made.lmtp_length.observe(0.1, step, more=True)
    assert told.steps[0].by_text == (([1, 1], [1, 0]) if shows else None)
