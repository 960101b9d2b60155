"""Workers under Ray, on one node and on two: they draft as one process would."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chain import Chain
from tests.distributed.cluster import Cluster
from tests.engine.client import EngineHost
from tests.engine.test_chain import check, prompts_of

pytest.importorskip("ray")


@pytest.fixture(params=[1, 2], ids=["one node", "two nodes"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(request.param, 2 // request.param, tmp_path / "ray.log")
    yield made
    made.close()


def test_two_ranks_under_ray(
    cluster: Cluster,
    chain: Chain,
    chain_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in cluster.variables.items():
        monkeypatch.setitem(os.environ, name, value)
    host = EngineHost(1, False, tmp_path / "host.log", processes=True)
    try:
        host.start(
            chain_folder,
            speculative_config="lmtp",
            tensor_parallel_size=2,
            distributed_executor_backend="ray",
            max_num_batched_tokens=64,
        )
        check(host, chain, prompts_of(chain, [5, 40, 41, 90]), 20, 6, 512)
        line = r"L-MTP \(vllm-lmtp \S+\): .*, vLLM \S+, node \S+ \(127\.0\.0\.1\)"
        assert re.search(line, host.log.read_text())
    finally:
        host.close()
