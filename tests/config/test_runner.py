"""Which model runner is expected, and what is refused where vLLM falls back to V1 by itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vllm_lmtp.config.spec_config import runner_in_use
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.runner_v1.proposer import refuse_async


@pytest.mark.parametrize(("forced", "runner"), [(True, 2), (False, 1)])
def test_the_users_choice_counts(
    monkeypatch: pytest.MonkeyPatch, forced: bool, runner: int
) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", str(int(forced)))
    assert runner_in_use() == runner


@pytest.mark.parametrize(("triton", "runner"), [(True, 2), (False, 1)])
def test_without_a_choice_triton_decides(
    monkeypatch: pytest.MonkeyPatch, triton: bool, runner: int
) -> None:
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    monkeypatch.setattr("vllm.triton_utils.HAS_TRITON", triton)
    assert runner_in_use() == runner
    launched = SimpleNamespace(
        pipeline_parallel_size=2, distributed_executor_backend="external_launcher"
    )
    assert runner_in_use(launched) == 1


@pytest.mark.parametrize("method", ["lmtp", "ngram", None])
def test_v1_with_asynchronous_scheduling(method: str | None) -> None:
    config = SimpleNamespace(
        speculative_config=SimpleNamespace(method=method) if method else None,
        scheduler_config=SimpleNamespace(async_scheduling=True),
    )
    if method == "lmtp":
        with pytest.raises(LMTPError, match="--no-async-scheduling"):
            refuse_async(config)  # type: ignore[arg-type]
    else:
        refuse_async(config)  # type: ignore[arg-type]
