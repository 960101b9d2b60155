"""What a worker reports of its drafts, put in and taken out where vLLM's own calls pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.outputs import ModelRunnerOutput

from vllm_lmtp.patches.draft_reports import _sample_tokens
from vllm_lmtp.patches.scheduler import _update_from_output
from vllm_lmtp.worker import clock
from vllm_lmtp.worker.sources import SourceLog


@pytest.mark.parametrize("by_name", [False, True])
def test_time_and_sources_reach_the_scheduler_before_it_judges(by_name: bool) -> None:
    config = SimpleNamespace(speculative_config=SimpleNamespace(method="lmtp"))
    drafter = SimpleNamespace(propose=lambda: None, lmtp_sources=SourceLog())
    device = torch.device("cpu")
    runner = SimpleNamespace(vllm_config=config, speculator=drafter, device=device)
    request = SimpleNamespace()
    scheduler = SimpleNamespace(vllm_config=config, requests={"a": request}, log_stats=True)
    schedule = SimpleNamespace(num_spec_tokens_to_schedule=2)
    outputs: list[Any] = []
    for _ in range(3):

        def step(*args: Any, **kwargs: Any) -> ModelRunnerOutput:
            drafter.propose()
            drafter.lmtp_sources.add(["a"], torch.tensor([[True, False]]))
            return ModelRunnerOutput(req_ids=["a"], req_id_to_index={"a": 0})

        outputs.append(_sample_tokens(step, runner, (None,), {}))
    assert [clock.CARRIED in vars(output) for output in outputs] == [False, True, True]

    def judged(*args: Any, **kwargs: Any) -> Any:
        return getattr(request, "lmtp_origins", None), len(getattr(scheduler, "lmtp_passes", ()))

    seen = []
    for output in outputs:
        args, kwargs = (schedule, output), {}
        if by_name:
            args, kwargs = (), {"scheduler_output": schedule, "model_runner_output": output}
        seen.append(_update_from_output(judged, scheduler, args, kwargs))
    assert seen == [(None, 0), ([True, False], 1), ([True, False], 2)]


def test_other_methods_report_nothing() -> None:
    config = SimpleNamespace(speculative_config=SimpleNamespace(method="ngram"))
    drafter, output = SimpleNamespace(propose=print), SimpleNamespace()
    runner = SimpleNamespace(vllm_config=config, drafter=drafter, device=torch.device("cpu"))
    assert _sample_tokens(lambda grammar: output, runner, (None,), {}) is output
    assert vars(output) == {}
    scheduler = SimpleNamespace(vllm_config=config)
    taken = _update_from_output(lambda *args: args, scheduler, (None, output), {})
    assert taken == (None, output)
    assert list(vars(scheduler)) == ["vllm_config"]
