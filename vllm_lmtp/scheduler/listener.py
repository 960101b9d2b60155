"""What is listened to in vLLM's scheduler, and who is told.

A scheduler is made. Then, of each step: it is scheduled; its output arrives and is read, each of
its drafts being judged; the statistics of the step are made. Without lmtp nobody is told anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vllm_lmtp.observe import watch
from vllm_lmtp.observe.carried import add_draft_passes
from vllm_lmtp.scheduler import bounds
from vllm_lmtp.scheduler.draft_length import DraftLength, install
from vllm_lmtp.worker import clock, sources


def made(scheduler: Any, _: None, *args: Any, **kwargs: Any) -> None:
    """vLLM's scheduler was made."""
    install(scheduler)


def scheduled(scheduler: Any, output: Any, *args: Any, **kwargs: Any) -> None:
    """A step was scheduled; output: vLLM's `SchedulerOutput`."""
    watch.note_admissions(scheduler, output)
    bounds.keep(scheduler)
    if (length := _length(scheduler)) is not None:
        length.plan(output)


@contextmanager
def reading(scheduler: Any, scheduler_output: Any, model_runner_output: Any) -> Iterator[None]:
    """While the output of a step is read."""
    length = _length(scheduler)
    seconds = None if length is None else length.arrived()
    clock.collect(scheduler, scheduler_output, model_runner_output)
    sources.collect(scheduler, model_runner_output)
    yield
    if length is not None:
        length.observe(seconds, scheduler_output, more=scheduler.has_unfinished_requests())


def judged(scheduler: Any, stats: Any, _stats_before: Any, **verdict: Any) -> None:
    """The target has judged a draft; named arguments as of `make_spec_decoding_stats`.

    stats: the step's `SpecDecodingStats`, None when statistics are off.
    """
    watch.note_verdict(scheduler, stats, **verdict)
    if (length := _length(scheduler)) is not None:
        request = scheduler.requests[verdict["request_id"]]
        origins = getattr(request, "lmtp_origins", ())
        length.verdict(verdict["num_draft_tokens"], verdict["num_accepted_tokens"], origins)


def report(scheduler: Any, stats: Any, *args: Any, **kwargs: Any) -> None:
    """The statistics of a step were made: `SchedulerStats`, None when statistics are off."""
    if stats is None or (length := _length(scheduler)) is None:
        return
    length.reports.add_to(stats, scheduler.num_spec_tokens)
    # A pass whose drafts were not worth a row meets no verdict that would take its time along.
    if stats.spec_decoding_stats is not None and (passes := getattr(scheduler, "lmtp_passes", ())):
        add_draft_passes(stats.spec_decoding_stats, list(passes))
        passes.clear()


def ended(scheduler: Any, _: None) -> None:
    """The engine ends."""
    if (length := _length(scheduler)) is not None:
        length.close()


def _length(scheduler: Any) -> DraftLength | None:
    return getattr(scheduler, "lmtp_length", None)
