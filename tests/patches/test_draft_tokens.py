"""Drafts travel with the tokens where vLLM would ask for them by a call of its own."""

from __future__ import annotations

import pickle
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.executor.abstract import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput

from vllm_lmtp.patches.draft_tokens import PATCH, _receive, _send, _take

DRAFTS = DraftTokenIds(["a", "b"], [[1, 2], []])


def make_worker(
    method: str | None = "lmtp", asynchronous: bool = False, drafts: DraftTokenIds | None = DRAFTS
) -> Any:
    config = SimpleNamespace(
        speculative_config=SimpleNamespace(method=method) if method else None,
        scheduler_config=SimpleNamespace(async_scheduling=asynchronous),
    )
    return SimpleNamespace(vllm_config=config, take_draft_token_ids=lambda: drafts)


def make_output(*req_ids: str) -> ModelRunnerOutput:
    return ModelRunnerOutput(req_ids=list(req_ids), req_id_to_index={})


def sent(worker: Any, output: ModelRunnerOutput | None) -> Any:
    """What the engine unpacks."""
    return pickle.loads(pickle.dumps(_send(lambda grammar: output, worker, (None,), {})))


def taken(output: Any, asked: DraftTokenIds | None = None) -> list[DraftTokenIds | None]:
    """What the scheduler is given after a step with this output, and if it asked once more."""
    executor = SimpleNamespace()
    assert _receive(lambda grammar: output, executor, (None,), {}) is output
    return [_take(lambda: asked, executor, (), {}) for _ in range(2)]


def test_drafts_come_with_the_tokens_and_are_given_once() -> None:
    assert taken(sent(make_worker(), make_output("a", "b"))) == [DRAFTS, None]


def test_a_step_without_drafts_names_no_request() -> None:
    none = make_worker(drafts=DraftTokenIds(["a", "b"], [[], []]))
    assert taken(sent(none, make_output("a", "b"))) == [DraftTokenIds([], []), None]


def test_where_vllm_drafted_nothing_it_is_asked() -> None:
    assert taken(sent(make_worker(drafts=None), make_output("a")), DRAFTS) == [DRAFTS, DRAFTS]


def test_drafts_come_with_an_asynchronous_runners_output() -> None:
    output = make_output("a", "b")
    _send(lambda: SimpleNamespace(model_runner_output=output), make_worker(), (), {})
    assert taken(output) == [DRAFTS, None]


@pytest.mark.parametrize(
    "worker", [make_worker("ngram"), make_worker(None), make_worker(asynchronous=True)]
)
def test_other_methods_and_schedulings_are_left_alone(worker: Any) -> None:
    asked = DraftTokenIds([], [])
    assert taken(sent(worker, make_output("a")), asked) == [asked, asked]


@pytest.mark.parametrize("output", [None, make_output()])
def test_ranks_that_sampled_nothing_send_nothing(output: ModelRunnerOutput | None) -> None:
    """vLLM shares the empty output between steps, so it must stay as it is."""
    assert taken(sent(make_worker(), output)) == [None, None]
    assert not vars(output or SimpleNamespace()).keys() & {"lmtp_draft_token_ids"}


def test_batches_in_a_queue_are_asked_for_as_ever() -> None:
    assert taken(Future(), DRAFTS) == [DRAFTS, DRAFTS]


def test_drafts_of_a_step_never_serve_the_next() -> None:
    executor = SimpleNamespace()
    _receive(lambda: sent(make_worker(), make_output("a")), executor, (), {})
    _receive(make_output, executor, (), {})
    assert _take(lambda: None, executor, (), {}) is None


@pytest.mark.parametrize("executor", [UniProcExecutor, MultiprocExecutor])
def test_executors_that_ask_in_their_own_way_are_bound(executor: type[Executor]) -> None:
    """Each defines both methods, so none is reached through its base."""
    for method in ("sample_tokens", "take_draft_token_ids"):
        assert method in vars(executor)
        assert f"{executor.__name__}.{method}" in {b.attribute for b in PATCH.bindings}
