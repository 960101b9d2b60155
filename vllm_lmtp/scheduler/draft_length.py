"""Asks a controller for the length of each step's drafts, and tells it how the steps went.

vLLM looks the number of drafts up by the number of requests where a schedule is configured; this
object stands in that schedule's place. It lives in the scheduler's process, sees what the scheduler
sees anyway and reads one clock of the host: nothing of a device, no other rank, no other engine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from vllm.logger import init_logger

from vllm_lmtp import is_lmtp
from vllm_lmtp.length.choices import num_drafts
from vllm_lmtp.length.controller import Controller
from vllm_lmtp.length.plan import CARRIED, Plan
from vllm_lmtp.length.step import Step
from vllm_lmtp.method.copying import copies_alone
from vllm_lmtp.observe.draft_length import LengthReports
from vllm_lmtp.scheduler.warm_start import WarmStart, engine_names

logger = init_logger("vllm.lmtp")

PAUSE = 0.5
"""Seconds between an output and the next schedule, which follows it at once, from which nothing was
computed in between: the engine was paused."""


class DraftLength:
    """The draft length of one engine.

    Args:
        controller: which chooses.
        text_shows: whether drafts of heads and texts show what texts alone would have drafted. Not
            where tokens are drawn: what is accepted then depends on the heads' opinion, too.
        pipeline: steps from the one that makes a draft to the one that verifies it; the number of
            pipeline ranks, since their batches take turns.
        warm: where what was learnt goes at the end; None to forget it.
        clock: seconds.
    """

    def __init__(
        self,
        controller: Controller,
        text_shows: bool = False,
        pipeline: int = 1,
        warm: WarmStart | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.controller = controller
        self.reports = LengthReports(controller)
        self._warm, self._clock = warm, clock
        self._places = max(map(num_drafts, controller.lengths))
        self._chosen = 0
        self.text_shows, self._pipelined = text_shows, pipeline > 1
        self._wanted = deque([0] * pipeline, maxlen=pipeline)
        self._drafts, self._accepted = self._none_yet(), self._none_yet()
        self._text, self._text_accepted = self._none_yet(), self._none_yet()
        self._before: float | None = None

    def __getitem__(self, num_requests: int) -> int:
        """Drafts a request that the step which is being scheduled should make.

        vLLM asks once for each step that has any request.
        """
        self._chosen = self.controller.choose(num_requests)
        return num_drafts(self._chosen)

    def plan(self, scheduler_output: Any) -> None:
        """Tell the workers of a step that was scheduled what they need to know."""
        num_requests = len(scheduler_output.num_scheduled_tokens)
        if self._before is not None and self._clock() - self._before > PAUSE:
            self._before = None
        if not num_requests:
            if self._pipelined:  # a batch waits for its turn by steps, whether these are empty
                self._wanted.append(0)
            return
        price = costs = None
        if self._chosen or self._wanted[0]:  # else there is nothing to cut
            price = self.controller.price_of_row(num_requests)
            costs = self.controller.costs_alone() if num_requests == 1 else None
        setattr(scheduler_output, CARRIED, Plan(self._wanted[0], self._chosen, price, costs))
        self._wanted.append(self._chosen)

    def verdict(self, num_drafts: int, num_accepted: int, origins: Sequence[int] = ()) -> None:
        """The target judged a draft of the step whose output is being read.

        Args:
            origins: of its places, as `Origin`; nothing where nobody noted them.
        """
        self._drafts[num_drafts] += 1
        self._accepted[num_accepted] += 1
        if self.text_shows:
            places, same = copies_alone(origins)
            self._text[min(places, num_drafts)] += 1
            self._text_accepted[min(same, num_accepted)] += 1

    def arrived(self) -> float | None:
        """An output has arrived: seconds since the one before it, None after a pause."""
        now = self._clock()
        seconds = None if self._before is None else now - self._before
        self._before = now
        return seconds

    def observe(self, seconds: float | None, scheduler_output: Any, more: bool) -> None:
        """Learn from a step whose output was read.

        Args:
            seconds: as `arrived` said.
            more: whether any request is left, so that the next step follows at once.
        """
        tokens = scheduler_output.num_scheduled_tokens
        if not more:
            self._before = None
        if not tokens:
            return
        plan: Plan | None = getattr(scheduler_output, CARRIED, None)
        if plan is None:  # a scheduler of somebody else's, which does not call vLLM's `schedule`
            return
        plain = not plan.asked and not plan.wanted
        one_each = scheduler_output.total_num_scheduled_tokens == len(tokens)
        if plain and one_each and seconds and self.controller.passes(len(tokens), seconds):
            self.reports.passed()
            return
        judged, accepted = self._reached(self._drafts), self._reached(self._accepted)
        drafts = scheduler_output.scheduled_spec_decode_tokens
        rows = sum(map(len, drafts.values()))
        decoding = len(tokens)
        prefill = scheduler_output.total_num_scheduled_tokens > decoding + rows
        if prefill:
            decoding = sum(count == 1 + len(drafts.get(r, ())) for r, count in tokens.items())
        by_text = None
        if self.text_shows:
            by_text = self._reached(self._text), self._reached(self._text_accepted)
        asked, wanted = plan.asked, plan.wanted
        step = Step(seconds, decoding, rows, asked, wanted, judged, accepted, prefill, by_text)
        self.controller.observe(step)
        self.reports.observe(step)

    def close(self) -> None:
        """The engine ends: write down what was learnt."""
        if self._warm is not None:
            self._warm.save(self.controller)

    def _none_yet(self) -> list[int]:
        """Counts by place, the first of drafts that reach none."""
        return [0] * (self._places + 1)

    def _reached(self, counts: list[int]) -> list[int]:
        """Of each place, how many drafts had it; the counts start anew."""
        if not any(counts):
            return [0] * self._places
        found = list(accumulate(reversed(counts[1:])))[::-1]
        counts[:] = [0] * len(counts)
        return found


def install(scheduler: Any) -> None:
    """Let a controller answer where vLLM's scheduler looks the number of drafts up.

    Args:
        scheduler: vLLM's, just made.

    Raises:
        LMTPError: the file of what was learnt holds something else.
    """
    config = scheduler.vllm_config.speculative_config
    if not is_lmtp(config) or config.lmtp_draft_length != "auto":
        return
    if scheduler.dynamic_sd_lookup is None:
        logger.warning_once(
            "L-MTP: vLLM allows no draft length that changes with data parallelism, so every step "
            "makes %d drafts a request; set num_speculative_tokens to what suits your load.",
            config.num_speculative_tokens,
        )
        return
    warm = None
    if config.lmtp_draft_length_file is not None:
        warm = WarmStart(Path(config.lmtp_draft_length_file), engine_names(scheduler.vllm_config))
    choices = config.draft_choices
    controller = None if warm is None else warm.controller(choices)
    pipeline = scheduler.vllm_config.parallel_config.pipeline_parallel_size
    controller = controller or Controller(config.num_speculative_tokens, choices)
    text_shows = min(controller.lengths) < 0 and config.draft_sample_method != "probabilistic"
    scheduler.lmtp_length = scheduler.dynamic_sd_lookup = DraftLength(
        controller, text_shows, pipeline, warm
    )
