"""Answers by the block, with stand-ins for the engines: what they say wrong is found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.eval.trust.test_counters import agreeing
from tests.support.random_models import EMBEDDED, fields
from vllm_lmtp.eval.engines.engine import Steps
from vllm_lmtp.eval.engines.variants import read_variants
from vllm_lmtp.eval.pages import report
from vllm_lmtp.eval.provenance import provenance
from vllm_lmtp.eval.trust import exact
from vllm_lmtp.eval.trust.counters import (
    ENDED,
    GENERATED,
    PREEMPTIONS,
    PREFIX_HITS,
    Counts,
)
from vllm_lmtp.eval.trust.exact import Plan
from vllm_lmtp.eval.trust.kept import Kept
from vllm_lmtp.eval.trust.mixture import Request
from vllm_lmtp.eval.trust.trial import Answered, Conditions
from vllm_lmtp.eval.trust.verdict import is_fault

VARIANTS = read_variants([], str(EMBEDDED))
CONDITIONS = Conditions(str(EMBEDDED), "float32", context=64, slots=4, chunk=16)
PLAN = Plan(tokens=900, of_block=300, max_tokens=20, seed=0)
TEXTS = [[100 * text + place for place in range(90)] for text in range(5)]
STEPS = [Steps((4, 3), (4, 0)), Steps((4,), (1,))]


class StandIn:
    """Answers by a rule. It may lie about one token of a request, preempt nothing, count a token
    too many, or break off in a block."""

    started: list[str] = []  # noqa: RUF012
    blocks: list[str] = []  # noqa: RUF012
    lies = preempts_not = miscounts = False
    ends_at = -1

    def __init__(self, conditions: Conditions, config: dict[str, Any] | None) -> None:
        self.name = "plain" if config is None else "lmtp"
        self.runner, self.asynchronous = 1, False
        self.places = 0 if config is None else 4
        StandIn.started.append(self.name)

    def answer(self, requests: Sequence[Request]) -> Answered:
        if len(StandIn.blocks) == StandIn.ends_at:
            raise KeyboardInterrupt
        StandIn.blocks.append(self.name)
        answers = [
            [(sum(r.tokens) + 7 * place) % 997 for place in range(r.longest(CONDITIONS.context))]
            for r in requests
        ]
        if self.lies and self.places:
            answers[3][-1] += 1
        counts: Counts = Counter({GENERATED: sum(map(len, answers)), ENDED: len(answers)})
        counts[PREFIX_HITS] = 5
        counts[PREEMPTIONS] = 0 if self.preempts_not else 2
        if self.places:
            counts.update(agreeing())
            counts[GENERATED] += self.miscounts
        return Answered(answers, STEPS if self.places else [], 0.5, counts)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "started", [])
    monkeypatch.setattr(StandIn, "blocks", [])


def margin(prompt: Any, expected: list[int], got: list[int], place: int) -> dict[str, Any]:
    return {"plain": expected[place], "lmtp": got[place], "margin": 0.5, "best_margin": 0.5}


def measure(file: Path | None = None) -> dict[str, Any]:
    def write(tokens: int) -> list[list[int]]:
        StandIn.started.append("texts")
        return TEXTS

    return exact.measure(
        VARIANTS, CONDITIONS, PLAN, Kept(file), write, margin, lambda text: None, StandIn
    )


def test_equal_answers() -> None:
    found = measure()
    (variant,) = found["variants"]
    assert StandIn.started == ["texts", "plain", "lmtp"]
    assert found["plain"]["tokens"] >= 900 > found["plain"]["tokens"] - 320
    assert variant["tokens"] == variant["compared"] == found["plain"]["tokens"]
    assert (variant["different"], variant["broken"], variant["not_seen"]) == (0, [], [])
    assert variant["preemptions"] == 2 * variant["blocks"]
    assert variant["drafts"] == 3 * variant["blocks"]
    assert not is_fault(variant)


def test_a_token_that_differs_is_found_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "lies", True)
    found = measure()
    (variant,) = found["variants"]
    assert variant["different"] == variant["blocks"] == len(variant["differences"])
    first = variant["differences"][0]
    assert (first["block"], first["request"]) == (0, 3)
    assert first["lmtp"] == first["plain"] + 1
    assert first["place"] == min(first["max_tokens"], 64 - first["prompt"]) - 1
    assert is_fault(variant)
    near = {"best_margin": 1e-6, "margin": -1e-6}
    variant["differences"] = [d | near for d in variant["differences"]]
    assert not is_fault(variant)  # near ties
    assert is_fault(variant | {"different": 1 + variant["different"]})


def test_counters_that_do_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "miscounts", True)
    (variant,) = measure()["variants"]
    assert len(variant["broken"]) == variant["blocks"]
    assert "block 0: tokens" in variant["broken"][0]
    assert is_fault(variant)


def test_what_never_happened_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "preempts_not", True)
    (variant,) = measure()["variants"]
    assert variant["not_seen"] == ["preemption"]
    assert not is_fault(variant)


def test_a_run_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure()
    blocks = list(StandIn.blocks)
    file = tmp_path / "blocks.jsonl"
    monkeypatch.setattr(StandIn, "blocks", [])
    monkeypatch.setattr(StandIn, "ends_at", 4)
    with pytest.raises(KeyboardInterrupt):
        measure(file)
    with file.open("a") as handle:
        handle.write('{"key": "cut o')
    monkeypatch.setattr(StandIn, "ends_at", -1)
    monkeypatch.setattr(StandIn, "started", [])
    assert measure(file) == whole
    assert StandIn.started == ["lmtp"]
    assert StandIn.blocks == blocks
    assert measure(file) == whole
    assert StandIn.started == ["lmtp"]


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "lies", True)
    monkeypatch.setattr(StandIn, "preempts_not", True)
    made = {
        "kind": "exact",
        "provenance": provenance(["eval", "exact"], 0),
        "settings": {"model": "tiny", "dtype": "float32"},
        **measure(),
    }
    report.check_output(tmp_path)
    files = report.save(json.loads(json.dumps(made)), tmp_path)
    page = report.render(report.read_result(files[0]))
    assert page == files[1].read_text()
    assert files[2].read_bytes().startswith(b"\x89PNG")
    (variant,) = made["variants"]
    assert f"**{variant['different']} of {variant['requests']} answers differ**" in page
    assert "**Never happened, and so not shown: preemption.**" in page
    assert "| 0/3 |" in page
    assert "| copy | " in page


def test_heads_that_are_none_are_refused(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the command sets them for its process
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    words = ("--threads", "1", "--heads", f"x={tmp_path}")
    assert fields(capfd, "eval", "exact", *words)
    assert fields(capfd, "eval", "soak", "--threads", "1", "--adapter", "x=nowhere") == {"value"}
