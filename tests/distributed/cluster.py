"""Ray clusters on this machine: each raylet stands for a node, with an address of its own."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.engine.client import environment

START_SECONDS = 300  # a raylet is up in 10 s on an idle machine
STARTED = "Ray runtime started"
# What vLLM compiles on a CPU even so is little, but takes a compiler a minute in every new process.
UNCOMPILED = {"TORCHDYNAMO_DISABLE": "1"}


@dataclass(frozen=True)
class Node:
    """A raylet and all that it started."""

    ip: str
    metrics_port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def metrics(self) -> str:
        return f"http://{self.ip}:{self.metrics_port}/metrics"

    def family(self) -> list[psutil.Process]:
        """All processes of the node; none once it has ended, when its number may be another's."""
        if self.process.poll() is not None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            raylet = psutil.Process(self.process.pid)
            return [raylet, *raylet.children(recursive=True)]
        return []

    def workers(self) -> list[psutil.Process]:
        """vLLM's workers on the node."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "RayWorkerProc" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def has_joined(self, deadline: float) -> bool:
        """Wait until it has, which Ray gives it 30 s for; if it does not, nothing of it is left."""
        family: list[psutil.Process] = []
        while self.process.poll() is None and time.monotonic() < deadline:
            if STARTED in self.log.read_text():
                return True
            family = self.family()
            time.sleep(0.2)
        _kill(family or self.family())
        self.process.wait()
        return False

    def kill(self) -> None:
        """It goes away at once, with all its processes."""
        _kill(self.family())
        self.process.wait()

    def close(self) -> None:
        family = self.family()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        _kill(family)
        self.process.wait()


class Cluster:
    """Nodes on loopback, with `gpus` pretended GPUs each. The first is Ray's head.

    Args:
        nodes: how many to start with.
        gpus: workers that a node may have.
        folder: gets what Ray prints.
        runner, asynchronous: as of `EngineHost`, whose engines run here.
    """

    def __init__(
        self, nodes: int, gpus: int, folder: Path, runner: int = 1, asynchronous: bool = False
    ) -> None:
        pytest.importorskip("ray")
        self._gpus, self._folder = gpus, folder
        self._environment = environment(runner, asynchronous)
        self._address = ""  # of Ray's head
        # A socket's path must be short, which pytest's folders are not.
        self._sockets = tempfile.mkdtemp(prefix="lmtp-ray-")
        self.nodes: list[Node] = []
        try:
            for index in range(nodes):
                self.start(index)
        except BaseException:
            self.close()
            raise

    @property
    def variables(self) -> dict[str, str]:
        """Of a process on the first node that uses the cluster."""
        return _variables(self.nodes[0].ip) | {"RAY_ADDRESS": self._address}

    def start(self, index: int, variables: Mapping[str, str] | None = None) -> None:
        """Start a node, for the first time or again, and wait until it has joined.

        variables: of this node alone.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            node = self._launch(index, variables or {})
            self.nodes[index : index + 1] = [node]
            if node.has_joined(deadline):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"node {index} did not start:\n{node.log.read_text()}")

    def _launch(self, index: int, variables: Mapping[str, str]) -> Node:
        ip = f"127.0.0.{2 + index}"  # Ray would replace 127.0.0.1 by the machine's outer address
        metrics_port = _free_port(ip)
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "start", "--block", f"--node-ip-address={ip}"]
        command += [f"--num-gpus={self._gpus}", "--num-cpus=2", "--disable-usage-stats"]
        command += [f"--metrics-export-port={metrics_port}", "--object-store-memory=100000000"]
        if index == 0:
            port = _free_port(ip)
            self._address = f"{ip}:{port}"
            command += ["--head", f"--port={port}", f"--temp-dir={self._sockets}"]
            command += ["--include-dashboard=false"]
        else:
            command += [f"--address={self._address}"]
        log = self._folder / f"node-{index}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                env=self._environment | _variables(ip) | dict(variables),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return Node(ip, metrics_port, process, log)

    def close(self) -> None:
        """End every process of the cluster, and no other."""
        for node in reversed(self.nodes):
            node.close()
        shutil.rmtree(self._sockets, ignore_errors=True)


def _variables(ip: str) -> dict[str, str]:
    return {
        "VLLM_LMTP_RAY_CPU": "1",
        "VLLM_HOST_IP": ip,
        "RAY_AUTH_MODE": "disabled",  # nobody else is served
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_usage_threshold": "1.0",
        # Ray starts workers at niceness 15: beside any other work they would hardly start.
        "RAY_worker_niceness": "0",
        # A node that has stopped answering is given up after about 25 s, not 65.
        "RAY_health_check_timeout_ms": "4000",
        "RAY_health_check_failure_threshold": "4",
        "RAY_metrics_report_interval_ms": "1000",
        **UNCOMPILED,
    }


def _kill(family: list[psutil.Process]) -> None:
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=30)


def _free_port(address: str) -> int:
    with socket.socket() as found:
        found.bind((address, 0))
        return found.getsockname()[1]
