"""Ranks in processes of their own, on one node or on several, draft as one process would.

The chain's tokens and every counter equal the simulator's; the checkpoint's equal what transformers
computes without drafts, and its counters what transformers recomputes. More of tensor and pipeline
parallelism in tests/engine/test_processes.py, which the default tests run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.checkpoint import Checkpoint
from tests.distributed.cluster import UNCOMPILED, Cluster
from tests.distributed.layouts import (
    CHAIN,
    CHECKPOINT,
    TENSOR_AND_PIPELINE,
    V1,
    V2,
    Layout,
    mark,
    pipeline,
    tensor,
)
from tests.engine.client import EngineHost
from tests.engine.test_chain import check, prompts_of
from tests.support.chain.target import Chain

# Those of processes alone have their chain tests in tests/engine/test_processes.py.
PLACES = {
    (tensor(2), V1): (CHECKPOINT,),
    (tensor(2), V2): (CHECKPOINT,),
    (tensor(4), V1): (CHAIN,),  # the checkpoint's six heads are not divisible by four
    (pipeline(2), V2): (CHECKPOINT,),
    (TENSOR_AND_PIPELINE, V2): (CHAIN, CHECKPOINT),
    (tensor(2, nodes=1), V1): (CHAIN, CHECKPOINT),
    (tensor(2, nodes=1), V2): (CHAIN, CHECKPOINT),
    (tensor(2, nodes=2), V1): (CHAIN, CHECKPOINT),
    (tensor(2, nodes=2), V2): (CHAIN, CHECKPOINT),
    (pipeline(2, nodes=2), V2): (CHAIN, CHECKPOINT),
}


def with_model(model: str) -> pytest.MarkDecorator:
    cases = [
        pytest.param(
            (layout.nodes, runner),
            layout,
            id=f"{layout.split}, {layout.where}, V{runner[0]}",
            marks=mark(layout, runner, model),
        )
        for (layout, runner), models in PLACES.items()
        if model in models
    ]
    return pytest.mark.parametrize(("host", "layout"), cases, indirect=["host"], scope="module")


@pytest.fixture(scope="module")
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineHost]:
    """A host for engines on so many nodes, and the cluster that their workers need."""
    nodes, (runner, asynchronous) = request.param
    folder = tmp_path_factory.mktemp("place")
    cluster = None
    if nodes:
        cluster = Cluster(nodes, 2 // nodes, folder, runner, asynchronous)
    host = EngineHost(
        runner,
        asynchronous,
        folder / "host.log",
        processes=True,
        variables=cluster.variables if cluster else UNCOMPILED,
    )
    yield host
    host.close()
    if cluster:
        cluster.close()
    if nodes == 2:
        # Ray brings what workers print to the first node, but in its own time.
        loaded = r"L-MTP \(vllm-lmtp \S+\): .*, vLLM \S+, node \S+ \(127\.0\.0\.\d\)"
        assert re.search(loaded, host.log.read_text())


def start(host: EngineHost, layout: Layout, model: Path) -> None:
    executor = {"distributed_executor_backend": "ray"} if layout.nodes else {}
    host.start(
        model, speculative_config="lmtp", max_num_batched_tokens=64, **layout.args, **executor
    )


@with_model(CHAIN)
def test_drafts_are_those_of_one_process(
    host: EngineHost, layout: Layout, chain: Chain, chain_folder: Path
) -> None:
    start(host, layout, chain_folder)
    check(host, chain, prompts_of(chain, [5, 40, 41, 90]), 20, 6, 512)


@with_model(CHECKPOINT)
def test_the_checkpoint_writes_as_without_drafts(
    host: EngineHost, layout: Layout, checkpoint: Checkpoint
) -> None:
    start(host, layout, checkpoint.folder)
    checkpoint.check(host)
