"""How long each drafting pass takes, told to the scheduler without asking the device to wait.

On a CPU the host's clock says it. On a device the pass is only enqueued, so two events stand around
it and are read in a later step, when they are long done; one that is not is left for the next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from vllm_lmtp import is_lmtp

MOST_WAITING = 1000
"""Passes that wait for a verdict; where none comes, older ones are forgotten."""
CARRIED = "lmtp_draft_microseconds"
"""Attribute of `ModelRunnerOutput` that takes the passes to the scheduler; it is pickled along."""


class DraftClock:
    """Times the passes of one drafter.

    Args:
        device: where the drafter computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._done: list[int] = []
        self._enqueued: deque[tuple[torch.Event, torch.Event]] = deque()

    def timed(self, propose: Callable[..., Any]) -> Callable[..., Any]:
        """`propose`, with every call timed that drafts for requests."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("dummy_run"):
                return propose(*args, **kwargs)
            if self.device.type == "cpu":
                start = time.perf_counter()
                drafts = propose(*args, **kwargs)
                self._done.append(round(1e6 * (time.perf_counter() - start)))
                return drafts
            before, after = (torch.Event(self.device, enable_timing=True) for _ in range(2))
            before.record()
            drafts = propose(*args, **kwargs)
            after.record()
            self._enqueued.append((before, after))
            return drafts

        return call

    def take(self) -> list[int]:
        """Microseconds of each pass that has ended and was not taken before."""
        while self._enqueued and self._enqueued[0][1].query():
            before, after = self._enqueued.popleft()
            self._done.append(round(1e3 * before.elapsed_time(after)))
        taken, self._done = self._done, []
        return taken


def carry(runner: Any, output: Any) -> None:
    """Put the passes that have ended into what a runner returns for this step.

    The drafter is timed from the second step on, so the first warm-up never is; nor are steps that
    only keep a data-parallel rank in line or profile.

    Args:
        runner: of either kind.
        output: of its `sample_tokens`.
    """
    drafter = getattr(runner, "speculator", None) or getattr(runner, "drafter", None)
    if drafter is None or not is_lmtp(runner.vllm_config.speculative_config):
        return  # earlier pipeline ranks have no drafter
    clock = getattr(drafter, "lmtp_clock", None)
    if clock is None:
        clock = drafter.lmtp_clock = DraftClock(runner.device)
        drafter.propose = clock.timed(drafter.propose)
    told = getattr(output, "model_runner_output", output)
    if (passes := clock.take()) and told is not None:
        setattr(told, CARRIED, passes)


def collect(scheduler: Any, scheduler_output: Any, model_runner_output: Any) -> None:
    """Keep what a runner's output carries until a verdict takes it into the step's statistics.

    A step whose schedule wants no drafts only keeps the history up to date; it does not count.
    """
    passes = vars(model_runner_output).pop(
        CARRIED, None
    )  # popped, as vLLM shares some outputs between steps
    if passes and scheduler.log_stats and scheduler_output.num_spec_tokens_to_schedule:
        if not hasattr(scheduler, "lmtp_passes"):
            scheduler.lmtp_passes = deque(maxlen=MOST_WAITING)
        scheduler.lmtp_passes.extend(passes)
