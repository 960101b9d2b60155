"""What drafts were made of, on its way from drafter to scheduler, with stand-ins for vLLM."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.outputs import ModelRunnerOutput

from vllm_lmtp.method.copying import Origin
from vllm_lmtp.worker import sources
from vllm_lmtp.worker.sources import CARRIED, SourceLog, Sources

A, B = [Origin.TEXT, Origin.HEADS, Origin.TEXT], [Origin.AGAINST_TEXT, Origin.BOTH, Origin.TEXT]


def rows(*origins: list[int]) -> torch.Tensor:
    return torch.tensor(origins, dtype=torch.uint8)


def make_runner(kind: str = "speculator") -> Any:
    """A runner; V1 calls its drafter so, and V2 its speculator."""
    return SimpleNamespace(**{kind: SimpleNamespace(lmtp_sources=SourceLog())})


def make_output() -> ModelRunnerOutput:
    return ModelRunnerOutput(req_ids=[], req_id_to_index={})


def make_scheduler(*req_ids: str, method: str | None = "lmtp") -> Any:
    config = SimpleNamespace(method=method) if method else None
    return SimpleNamespace(
        vllm_config=SimpleNamespace(speculative_config=config),
        requests={req_id: SimpleNamespace() for req_id in req_ids},
    )


def noted(scheduler: Any) -> dict[str, Any]:
    """What the scheduler knows of each request's newest draft."""
    return {req_id: vars(request) for req_id, request in scheduler.requests.items()}


def test_sources_are_pickled_as_plain_values() -> None:
    """The scheduler's process need not know of tensors, pinned or not."""
    sent = Sources(("a", "b"), rows(A, B))
    assert sent.by_request() == {"a": A, "b": B}
    pickled = pickle.dumps(sent)
    assert b"torch" not in pickled
    assert pickle.loads(pickled).by_request() == {"a": A, "b": B}


def test_the_next_draft_does_not_write_over_sources() -> None:
    """The batch's list and the drafter's buffer are used again at every step."""
    req_ids, buffer = ["a", "b"], rows(A, B)
    kept = Sources(req_ids, buffer)
    req_ids.reverse()
    buffer.fill_(Origin.TEXT)
    assert kept.by_request() == {"a": A, "b": B}


def test_every_request_has_its_row() -> None:
    with pytest.raises(ValueError, match="longer"):
        Sources(["a"], rows(A, B)).by_request()


def test_a_step_takes_along_what_earlier_ones_drafted() -> None:
    """Once, in order, and even if a step in between returned nothing to take it."""
    log = SourceLog()
    log.add(["a"], rows(A))
    assert log.take() == []
    log.add(["b"], rows(B))
    assert [s.by_request() for s in log.take()] == [{"a": A}]
    log.add(["a"], rows(B))
    log.add(["b"], rows(A))
    assert [s.by_request() for s in log.take()] == [{"b": B}]
    assert [s.by_request() for s in log.take()] == [{"a": B}, {"b": A}]
    assert log.take() == []


@pytest.mark.parametrize("kind", ["speculator", "drafter"])
@pytest.mark.parametrize("process", ["the same", "another"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_sources_reach_the_requests_they_are_of(
    kind: str, process: str, asynchronous: bool
) -> None:
    """With the output of the step in which the draft is judged, before it is."""
    runner, scheduler = make_runner(kind), make_scheduler("a", "b", "c")
    seen = []
    for drafts in ({"a": A, "b": B}, {"a": B}, {}, {}):
        if drafts:
            vars(runner)[kind].lmtp_sources.add(list(drafts), rows(*drafts.values()))
        output = make_output()
        told = SimpleNamespace(model_runner_output=output) if asynchronous else output
        sources.carry(runner, told)
        received = output if process == "the same" else pickle.loads(pickle.dumps(output))
        sources.collect(scheduler, received)
        seen.append({k: v["lmtp_origins"] for k, v in noted(scheduler).items() if v})
    assert seen == [{}, {"a": A, "b": B}, {"a": B, "b": B}, {"a": B, "b": B}]


def test_requests_that_ended_meanwhile_are_passed_over() -> None:
    runner, scheduler, output = make_runner(), make_scheduler("b"), make_output()
    runner.speculator.lmtp_sources.add(["a", "b"], rows(A, B))
    sources.carry(runner, make_output())
    sources.carry(runner, output)
    sources.collect(scheduler, output)
    assert noted(scheduler) == {"b": {"lmtp_origins": B}}


def test_an_output_that_vllm_shares_between_steps_tells_once() -> None:
    scheduler, output = make_scheduler("a"), make_output()
    setattr(output, CARRIED, [Sources(["a"], rows(A))])
    sources.collect(scheduler, output)
    scheduler.requests["a"].lmtp_origins = ()
    sources.collect(scheduler, output)
    assert noted(scheduler) == {"a": {"lmtp_origins": ()}}


def test_a_step_without_output_keeps_its_sources_for_the_next() -> None:
    runner, output = make_runner(), make_output()
    runner.speculator.lmtp_sources.add(["a"], rows(A))
    sources.carry(runner, None)
    sources.carry(runner, make_output())
    sources.carry(runner, output)
    assert [s.by_request() for s in vars(output)[CARRIED]] == [{"a": A}]


@pytest.mark.parametrize(
    "runner",
    [
        SimpleNamespace(speculator=None),  # an earlier pipeline rank of V2
        SimpleNamespace(),  # one of V1
        SimpleNamespace(drafter=SimpleNamespace(propose=print)),  # of another method
        make_runner(),  # nothing was drafted
    ],
)
def test_a_runner_that_has_no_sources_tells_nothing(runner: Any) -> None:
    output = make_output()
    before = dict(vars(output))
    sources.carry(runner, output)
    assert vars(output) == before


@pytest.mark.parametrize("method", ["ngram", None])
def test_requests_of_other_methods_are_left_alone(method: str | None) -> None:
    scheduler, output = make_scheduler("a", method=method), make_output()
    setattr(output, CARRIED, [Sources(["a"], rows(A))])
    sources.collect(scheduler, output)
    assert noted(scheduler) == {"a": {}}


def test_sources_that_were_received_can_be_sent_on() -> None:
    received = pickle.loads(pickle.dumps(Sources(["a"], torch.tensor([[True, False]]))))
    assert pickle.loads(pickle.dumps(received)).by_request() == {"a": [True, False]}
