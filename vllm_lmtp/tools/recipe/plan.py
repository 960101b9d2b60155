"""How a time is spent: what was decided is written down, so that a run that is interrupted goes on
as it would have gone, and ends with the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import write_json

T = TypeVar("T")
ANSWERING = 0.45
"""Share of what is left once the prompts are there."""
TRAINING, MEASURING, JUDGING = 0.78, 0.08, 0.14
"""Shares of what is left once the answers are there: steps, measuring states on the way, and
calibrating and judging the last one."""
MEASURED, JUDGED = 10, 8
"""How often held-out answers are drafted on the way, and at the end."""
SAVING = 8.0
"""Seconds of starting, saving and drawing."""
LEAST_HELD, MOST_HELD = 1000, 20_000
"""Held-out tokens."""
LEAST_STEPS = 20
ASKED = "asked"


class Plan:
    """Decisions of one run of the command, in a file.

    Args:
        file: keeps them. asked: what was asked for; a run goes on only as what it was begun as.
        seconds: to spend in all.

    Raises:
        LMTPError: another run was begun there.
    """

    def __init__(
        self,
        file: Path,
        asked: Mapping[str, Any],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._seconds, self._clock = file, seconds, clock
        self._started = clock()
        asked = json.loads(json.dumps(asked))
        self.known: dict[str, Any] = {ASKED: asked, "spent": 0.0}
        if file.is_file():
            self.known = json.loads(file.read_text(encoding="utf-8"))
        self._before = float(self.known["spent"])
        for name, value in asked.items():
            if (found := self.known[ASKED].get(name)) != value:
                raise refuse(
                    str(file),
                    name,
                    found=f"{found}, with which what lies there was begun",
                    expected=f"{value}, as asked for now",
                    remedy="name another output, or delete this folder to begin anew",
                )

    def decide(self, name: str, make: Callable[[], T]) -> T:
        """What was decided, or what `make` says now, plain data that JSON can hold."""
        if name not in self.known:
            self.known[name] = make()
            self.known["spent"] = round(self.spent(), 1)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, self.known)
        found: T = self.known[name]
        return found

    def spent(self) -> float:
        """Seconds, those of interrupted runs up to their last decision included."""
        return self._before + self._clock() - self._started

    def left(self) -> float:
        """Seconds; never less than 0."""
        return max(0.0, self._seconds - self.spent())


def num_shards(left: float, start: float, seconds: Sequence[float], done: int) -> int:
    """Shards of answers that can be had.

    Args:
        left: seconds to the end of the run. start: of an engine's start. seconds: that a shard
            takes, of each worker, which work side by side. done: shards that are there.
    """
    time_left = ANSWERING * left - start
    more = sum(math.floor(max(0.0, time_left) / taken) for taken in seconds)
    return done + more


def training(
    left: float, step: float, token: float, judged: float, tokens: int, positions: int
) -> dict[str, int]:
    """What is trained and held out.

    Args:
        left: seconds to the end of the run. step, token: seconds of a training step, and of
            drafting after a held-out token. judged: of the latter once training is over. tokens: of
            all answers. positions: of a step.

    Returns:
        {"steps", "held_tokens", "measured_tokens"}.
    """
    held = JUDGING * left / (JUDGED * judged)
    held_tokens = int(min(max(LEAST_HELD, held), MOST_HELD, tokens / 5))
    measured = min(held_tokens, int(MEASURING * left / (MEASURED * token)))
    steps = (TRAINING * left - SAVING) / step
    enough = 10 * tokens / positions  # ten times each position
    return {
        "steps": int(min(max(LEAST_STEPS, steps), max(LEAST_STEPS, enough))),
        "held_tokens": max(2, held_tokens),
        "measured_tokens": max(1, measured),
    }
