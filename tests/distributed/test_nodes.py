"""A second node that is not like the first stops the start, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.cluster import Cluster
from tests.engine.client import ROOT, EngineError, EngineHost
from tests.engine.test_names import put_in_cache
from tests.support.chain.target import Chain, save_chain

SECOND = r"node \S+ \(127\.0\.0\.3\)"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(1, 1, tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


def log_of_refused(
    cluster: Cluster, second: Mapping[str, str], model: Path, log: Path, **args: Any
) -> str:
    """What is printed when a second node with these variables joins and the start is refused."""
    cluster.start(1, second)
    host = EngineHost(
        1, False, log, processes=True, variables=cluster.variables, hub=args.pop("hub", None)
    )
    try:
        with pytest.raises(EngineError):
            host.start(model, tensor_parallel_size=2, distributed_executor_backend="ray", **args)
    finally:
        host.close()
        cluster.nodes[1].kill()
    return log.read_text()


def test_another_version(cluster: Cluster, chain_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text('import vllm_lmtp\nvllm_lmtp.__version__ = "0.0.1"')
    log = log_of_refused(
        cluster,
        {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        chain_folder,
        tmp_path / "host.log",
        speculative_config="lmtp",
    )
    assert re.search(rf"{SECOND}: vllm-lmtp: found '?0\.0\.1", log)
    assert "as on the node that started the engine" in log


def test_heads_that_only_the_first_node_has(cluster: Cluster, chain: Chain, tmp_path: Path) -> None:
    heads = put_in_cache(tmp_path / "hub", "heads", chain, "heads")
    log = log_of_refused(
        cluster,
        {"HF_HUB_CACHE": str(tmp_path / "empty")},
        save_chain(chain, tmp_path / "target", "plain"),
        tmp_path / "host.log",
        speculative_config={"method": "lmtp", "model": heads},
        hub=tmp_path / "hub",
    )
    assert re.search(rf"{SECOND}: org/heads", log)
