"""What breaks in mid-generation ends it within a minute, and a restart serves again."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.distributed.cluster import UNCOMPILED, Cluster
from tests.distributed.generating import GENERATING, SERVED
from tests.distributed.layouts import FAULT, V1, mark, tensor
from tests.engine.client import ROOT, environment
from tests.engine.test_chain import prompts_of
from tests.support.chain.target import Chain

SHORT, LONG = 20, 2000
SECONDS = 60


class Run:
    """A process that generates for long. Answers to prompts of the chain before and after it are
    checked."""

    def __init__(
        self, process: subprocess.Popen[str], errors: Path, chain: Chain, prompts: list[list[int]]
    ) -> None:
        self.process, self.errors, self._chain, self._prompts = process, errors, chain, prompts

    def serves(self) -> None:
        line = self._line(SERVED)
        walks = [self._chain.walk(prompt[-1], 20)[1:] for prompt in self._prompts]
        assert json.loads(line.split(SERVED)[1]) == walks

    def generates(self) -> None:
        """In the middle of the long generation."""
        self._line(GENERATING)
        time.sleep(3)
        assert self.process.poll() is None

    def _line(self, mark: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if mark in line:
                return line
        raise AssertionError(f"it ended early:\n{self.errors.read_text()[-3000:]}")

    def workers(self) -> list[psutil.Process]:
        """vLLM's workers of this node, by rank."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        workers = [child for child in children if "Worker" in " ".join(child.cmdline())]
        return sorted(workers, key=lambda worker: " ".join(worker.cmdline()))

    def must_end_with_an_error(self) -> None:
        """Within a minute, with an exit code that is not zero, and leaving nothing behind."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        assert self.process.wait(SECONDS) != 0
        assert "EngineDeadError" in self.errors.read_text()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


Runs = Callable[..., Any]
Fault = Callable[[Cluster], None]


@pytest.fixture
def run(chain: Chain, chain_folder: Path, tmp_path: Path) -> Runs:
    """Start a process: `with run(variables, *longs, **engine)`."""
    prompts = prompts_of(chain, [5, 40])
    errors = tmp_path / "errors.log"

    @contextmanager
    def started(variables: Mapping[str, str], *longs: int, **engine: Any) -> Iterator[Run]:
        engine = {"tensor_parallel_size": 2, **engine}
        given = [chain_folder, json.dumps(prompts), json.dumps(engine), *longs]
        with errors.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.distributed.generating", *map(str, given)],
                cwd=ROOT,
                env=environment(1) | UNCOMPILED | dict(variables),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            yield Run(process, errors, chain, prompts)
        finally:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            process.kill()
            process.wait()

    return started


@pytest.mark.timeout(1200)
@mark(tensor(2), V1, FAULT)
def test_a_killed_worker_ends_the_run(run: Runs) -> None:
    for rank in (0, 1):
        with run({}, LONG) as running:
            running.serves()
            running.generates()
            workers = running.workers()
            assert len(workers) == 2
            workers[rank].kill()
            running.must_end_with_an_error()


def worker_dies(cluster: Cluster) -> None:
    (worker,) = cluster.nodes[1].workers()
    worker.kill()


def node_dies(cluster: Cluster) -> None:
    cluster.nodes[1].kill()


def node_falls_silent(cluster: Cluster) -> None:
    """Its connections stay open, as when a cable is pulled."""
    for process in cluster.nodes[1].family():
        process.suspend()


def head_dies(cluster: Cluster) -> None:
    cluster.nodes[0].kill()


# Each with the nodes that are started again afterwards; the head takes the cluster with it.
FAULTS: list[tuple[Fault, list[int]]] = [
    (node_dies, [1]),
    (node_falls_silent, [1]),
    (head_dies, [0, 1]),
]


@pytest.mark.timeout(1800)
@mark(tensor(2, nodes=2), V1, FAULT)
def test_a_fault_in_a_cluster_ends_the_run_and_a_slow_node_does_not(
    run: Runs, tmp_path: Path
) -> None:
    """Every start is the restart after the fault before it, and must serve; the first is slowed."""
    cluster = Cluster(2, 1, tmp_path)
    ray = {"distributed_executor_backend": "ray"}
    try:
        with run(cluster.variables, SHORT, LONG, **ray) as running:
            running.serves()
            with hampered(*cluster.nodes[1].workers()):
                running.serves()
            running.generates()
            worker_dies(cluster)
            running.must_end_with_an_error()
        for fault, nodes in FAULTS:
            with run(cluster.variables, LONG, **ray) as running:
                running.serves()
                running.generates()
                fault(cluster)
                running.must_end_with_an_error()
            for node in nodes:
                cluster.nodes[node].kill()
            for node in nodes:
                cluster.start(node)
        with run(cluster.variables, **ray) as running:
            running.serves()
            assert running.process.wait(SECONDS) == 0
    finally:
        cluster.close()


@contextmanager
def hampered(worker: psutil.Process) -> Iterator[None]:
    """Four fifths of the time it does nothing."""
    ended = threading.Event()

    def hamper() -> None:
        with suppress(psutil.NoSuchProcess):
            while not ended.is_set():
                worker.suspend()
                time.sleep(0.04)
                worker.resume()
                time.sleep(0.01)

    hampering = threading.Thread(target=hamper)
    hampering.start()
    try:
        yield
    finally:
        ended.set()
        hampering.join()
