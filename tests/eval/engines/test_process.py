"""Engines in processes of their own, real ones on the embedded model."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.support.random_models import EMBEDDED
from vllm_lmtp.eval.engines.engine import DRAFT_TOKENS, prepare_environment
from vllm_lmtp.eval.engines.process import EngineFailedError, EngineProcess, Job

PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6]]
CONFIG = {"method": "lmtp", "num_speculative_tokens_per_batch_size": [[1, 8, 2]]}
OPTIONS = {"dtype": "float32", "max_model_len": 128, "max_num_seqs": 8}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
            patched.setenv(name, "")  # put back afterwards
        prepare_environment(1)
        yield


def children() -> set[psutil.Process]:
    """Without the one that Python keeps for itself once it has started any."""
    found = psutil.Process().children(recursive=True)
    return {p for p in found if "resource_tracker" not in " ".join(p.cmdline())}


@pytest.mark.parametrize("processes", [False, True])
def test_an_engine_answers_counts_and_ends(processes: bool) -> None:
    """Engine core and worker with it, where they have processes of their own."""
    before = children()
    engine = EngineProcess(Job(str(EMBEDDED), CONFIG, True, OPTIONS, processes))
    started = children() - before
    names = [process.name() for process in started]
    assert any("EngineCore" in name for name in names) == processes
    run = engine.stream(PROMPTS, 2, 12)
    assert len(run.tokens[0]) == 12
    assert run.counters[DRAFT_TOKENS] > 0
    if not processes:
        engine.set_drafting(0)
        again = engine.stream(PROMPTS, 2, 12)
        assert again.tokens == run.tokens
        assert not again.counters[DRAFT_TOKENS]
    engine.close()
    gone, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
    assert len(gone) == len(started)


def test_an_engine_that_cannot_start_says_why() -> None:
    with pytest.raises(EngineFailedError, match="lmtp_strid"):
        EngineProcess(Job(str(EMBEDDED), {"method": "lmtp", "lmtp_strid": 2}, True, OPTIONS))
