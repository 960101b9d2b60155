"""Engines of known speed in the place of vLLM's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.random_models import EMBEDDED
from vllm_lmtp.eval.engines.engine import ENGINE_STEPS, Run
from vllm_lmtp.eval.engines.process import EngineFailedError
from vllm_lmtp.eval.prompts.asking import Asked, Questions, Settings
from vllm_lmtp.eval.prompts.sets import EvalPrompt

SETTINGS = Settings(str(EMBEDDED), 16, "float32", 8, 0, "raw")
QUESTIONS = Questions((Asked(EvalPrompt("a", "g", 0), [1, 2]),), {}, 64)


class StandIn:
    """An engine that is faster the longer it drafts and the fewer its streams are.

    gain: of one draft token for one stream.
    """

    calls: list[tuple[str, int, int]] = []  # noqa: RUF012
    broken: str | None = None
    gain = 1.0

    def __init__(self, job: Any) -> None:
        config = job.speculative_config
        self.name = "plain" if config is None else "lmtp"
        self.length, self.cut = 0, 0.0
        if StandIn.broken == self.name:
            raise EngineFailedError("no such thing")

    def set_drafting(self, length: int, cut: float) -> None:
        assert self.name == "lmtp"
        self.length, self.cut = length, cut

    def stream(self, prompts: list[list[int]], streams: int, max_tokens: int) -> Run:
        if max_tokens > 8:  # not to warm up
            StandIn.calls.append((self.name, streams, self.length))
        seconds = (1 - self.cut) / (1 + self.gain * self.length / streams)
        return Run([[1] * max_tokens for _ in prompts], [], [], seconds, Counter({ENGINE_STEPS: 9}))

    def close(self) -> None:
        pass


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr("vllm_lmtp.eval.measurements.speed.EngineProcess", StandIn)
    monkeypatch.setattr(StandIn, "calls", [])
    monkeypatch.setattr(StandIn, "broken", None)
    monkeypatch.setattr(StandIn, "gain", 1.0)
    return StandIn
