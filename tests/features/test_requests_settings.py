"""Settings of vLLM's that its CPU build does not run, drafts or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.client import GPU, EngineError, EngineHost
from tests.engine.test_real import CHECKPOINT


@pytest.mark.skipif(GPU, reason="not run on a GPU, whose kernels for it are Triton's")
@pytest.mark.slow
@pytest.mark.feature("requests", "`VLLM_BATCH_INVARIANT=1`")
def test_batch_invariance_is_not_for_cpus(tmp_path: Path, says: Callable[[str], None]) -> None:
    reason = "'function' object is not subscriptable"
    for spec in (None, "lmtp"):
        log = tmp_path / f"{spec}.log"
        host = EngineHost(1, False, log, variables={"VLLM_BATCH_INVARIANT": "1"})
        try:
            host.start(CHECKPOINT, speculative_config=spec)
            with pytest.raises(EngineError, match=reason):
                host.generate(["Once upon a time"], {"temperature": 0, "max_tokens": 8})
        finally:
            host.close()
        assert "vllm/model_executor/determinism/batch_invariant.py" in log.read_text()
    says(f'vLLM stops in its first step, in plain decoding, too: "{reason}"')
