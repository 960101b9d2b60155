"""Tells operators what the draft length does: numbers for the frontend, and a word in the log.

Lives in the scheduler's process, beside the controller. Numbers go out with the statistics of a
step, at most once a second; the log has a line at most once a minute, when a length has changed for
good, and one once if drafts have not paid for a long while.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from vllm.logger import init_logger
from vllm.v1.spec_decode.metrics import SpecDecodingStats

from vllm_lmtp.length.controller import Controller
from vllm_lmtp.length.sizes import size_of
from vllm_lmtp.length.step import Step
from vllm_lmtp.observe.carried import LengthReport, SizeInUse, add_length_report

logger = init_logger("vllm.lmtp")

REPORT_SECONDS = 1.0
EARLY = 0.1
"""Of the time since the start; reports may follow each other sooner then."""
LOG_SECONDS = 60.0
"""Between lines in the log, and as long must a new length have been in use to be one for good."""
NEVER_SECONDS = 300.0
"""Of steps without any length that pays, after which that is said."""


class LengthReports:
    """Of one engine.

    Args:
        controller: that chooses its lengths. Only time that steps took is counted.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._steps: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self._reported = 0.0
        self._said: dict[int, int] = {}
        self._since: dict[int, tuple[int, float]] = {}
        self._spoke = -LOG_SECONDS
        self._ever_paid = False
        self._gave_up = False

    def observe(self, step: Step) -> None:
        """Count a step."""
        self._steps[step.wanted] += 1
        most, now = size_of(step.num_requests), self.controller.now
        length = self._sizes[most] = self.controller.in_use(step.num_requests)
        self._ever_paid |= length != 0
        since = self._since.get(most)
        if since is None or since[0] != length:
            self._since[most] = length, now
        elif now - since[1] >= LOG_SECONDS and now - self._spoke >= LOG_SECONDS:
            self._say(most, length)
        if not self._ever_paid and not self._gave_up and now >= NEVER_SECONDS:
            self._give_up()

    def passed(self) -> None:
        """Count a step without drafts from which nothing was learnt."""
        self._steps[0] += 1

    def add_to(self, stats: Any, num_spec_tokens: int) -> None:
        """Put what is new into a step's `SchedulerStats`.

        Steps without drafts have no statistics of drafts; they get some that count nothing.
        """
        now = self.controller.now
        if not self._steps or now - self._reported < min(REPORT_SECONDS, EARLY * now):
            return
        self._reported = now
        sizes = [
            SizeInUse(most, length, round(1000 * (self.controller.gain(most) or 1.0)))
            for most, length in sorted(self._sizes.items())
        ]
        if stats.spec_decoding_stats is None:
            stats.spec_decoding_stats = SpecDecodingStats.new(num_spec_tokens)
        add_length_report(stats.spec_decoding_stats, LengthReport(dict(self._steps), sizes))
        self._steps.clear()

    def _say(self, most: int, length: int) -> None:
        if self._said.get(most, 0) == length:
            return
        self._said[most], self._spoke = length, self.controller.now
        why = self.controller.reason(most)
        if why is None:
            return
        if not length:
            logger.info(
                "L-MTP: plain decoding for up to %d requests: no draft pays there now", most
            )
            return
        logger.info(
            "L-MTP: %s for up to %d requests: %.2f tokens a step of %.1f ms; plain decoding has 1 "
            "in %.1f ms, so this is %.2f x as fast (estimated)",
            _words(length),
            most,
            why.tokens,
            1e3 * why.seconds,
            1e3 * why.plain,
            why.tokens * why.plain / why.seconds,
        )

    def _give_up(self) -> None:
        self._gave_up = True
        logger.info(
            "L-MTP: in %.0f s no draft was worth its time, so decoding goes on without, and looks "
            "again now and then. What would change it: fewer requests at once, heads that are "
            "right more often (vllm-lmtp doctor measures them), or text that repeats itself.",
            self.controller.now,
        )


def _words(length: int) -> str:
    if length < 0:
        return f"copies alone, up to {-length} a request,"
    return f"{length} drafts a request"
