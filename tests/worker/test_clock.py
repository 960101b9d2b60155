"""Draft times on their way from the drafter to the step's statistics, with stand-ins for vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.spec_decode.metrics import SpecDecodingStats

from vllm_lmtp.observe import watch
from vllm_lmtp.observe.carried import draft_passes
from vllm_lmtp.worker import clock

CPU = torch.device("cpu")


def make_runner(method: str = "lmtp", device: torch.device = CPU) -> Any:
    config = SimpleNamespace(speculative_config=SimpleNamespace(method=method))
    drafter = SimpleNamespace(propose=lambda *args: args)
    return SimpleNamespace(vllm_config=config, drafter=drafter, device=device)


def make_output() -> ModelRunnerOutput:
    return ModelRunnerOutput(req_ids=[], req_id_to_index={})


def make_scheduler(log_stats: bool = True) -> Any:
    config = SimpleNamespace(method="lmtp", lmtp_stride=1, model="heads")
    return SimpleNamespace(
        vllm_config=SimpleNamespace(speculative_config=config),
        requests={"a": SimpleNamespace(num_tokens=9)},
        log_stats=log_stats,
    )


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every reading is 2 ms after the one before."""
    readings = iter(range(1000))
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: next(readings) * 0.002))


@pytest.mark.usefixtures("ticks")
def test_a_pass_is_told_with_the_step_that_made_it() -> None:
    runner, first, second = make_runner(), make_output(), make_output()
    runner.drafter.propose("warm-up")
    clock.carry(runner, first)
    assert not hasattr(first, clock.CARRIED)
    assert runner.drafter.propose("a", "b") == ("a", "b")
    clock.carry(runner, SimpleNamespace(model_runner_output=second))  # as an asynchronous runner's
    assert vars(second)[clock.CARRIED] == [2000]
    clock.carry(runner, third := make_output())
    assert not hasattr(third, clock.CARRIED)


def test_other_methods_and_ranks_without_a_drafter_are_left_alone() -> None:
    for runner in (make_runner("ngram"), make_runner()):
        if runner.vllm_config.speculative_config.method == "lmtp":
            runner.drafter = None
        clock.carry(runner, make_output())
        assert not hasattr(runner.drafter, "lmtp_clock")


def test_passes_wait_for_a_verdict_and_are_counted_once() -> None:
    scheduler, output = make_scheduler(), make_output()
    setattr(output, clock.CARRIED, [2000, 3000])
    step = SimpleNamespace(num_spec_tokens_to_schedule=4)
    clock.collect(scheduler, step, output)
    clock.collect(scheduler, step, output)  # one that vLLM shares between steps
    stats = [SpecDecodingStats.new(4), SpecDecodingStats.new(4)]
    for each in stats:
        watch.note_verdict(scheduler, each, 4, 1, None, "a")
    assert [draft_passes(each) for each in stats] == [[2000, 3000], []]


def test_passes_without_a_verdict_do_not_pile_up() -> None:
    scheduler, step = make_scheduler(), SimpleNamespace(num_spec_tokens_to_schedule=6)
    for number in range(clock.MOST_WAITING + 50):
        output = make_output()
        setattr(output, clock.CARRIED, [number])
        clock.collect(scheduler, step, output)
    assert len(scheduler.lmtp_passes) == clock.MOST_WAITING
    assert scheduler.lmtp_passes[-1] == clock.MOST_WAITING + 49


@pytest.mark.parametrize(("log_stats", "wanted"), [(False, 4), (True, 0)])
def test_nothing_is_kept_that_nobody_will_take(log_stats: bool, wanted: int) -> None:
    scheduler, output = make_scheduler(log_stats), make_output()
    setattr(output, clock.CARRIED, [2000])
    clock.collect(scheduler, SimpleNamespace(num_spec_tokens_to_schedule=wanted), output)
    assert not hasattr(scheduler, "lmtp_passes")


def test_a_device_is_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that are not done stay for a later step."""

    class Event:
        done = False

        def __init__(self, device: torch.device, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            pass

        def query(self) -> bool:
            return Event.done

        def elapsed_time(self, end: Event) -> float:
            assert Event.done
            return 1.5

    monkeypatch.setattr(torch, "Event", Event)
    watched = clock.DraftClock(torch.device("cuda"))
    watched.timed(lambda: None)()
    assert watched.take() == []
    Event.done = True
    assert watched.take() == [1500]
    assert watched.take() == []
