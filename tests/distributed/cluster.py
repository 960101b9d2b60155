"""Ray clusters on this machine: each raylet stands for a node."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.engine.client import environment


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Cluster:
    """Raylets on loopback, with `gpus` pretended GPUs each.

    Args:
        nodes: how many raylets.
        gpus: workers that a node may have.
        log: file for what Ray prints.
        runner, asynchronous: as of `EngineHost`, whose engines run here.
    """

    def __init__(
        self, nodes: int, gpus: int, log: Path, runner: int = 1, asynchronous: bool = False
    ) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        # A socket's path must be short, which pytest's folders are not.
        self.folder = tempfile.mkdtemp(prefix="lmtp-ray-")
        self.variables = {
            "VLLM_LMTP_RAY_CPU": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            "RAY_AUTH_MODE": "disabled",  # nobody else is served
            "RAY_ADDRESS": self.address,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_usage_threshold": "1.0",
        }
        self._env = environment(runner, asynchronous) | self.variables
        self._log = log.open("w")
        self._nodes: list[subprocess.Popen[bytes]] = []
        try:
            for index in range(nodes):
                self._start(index, gpus)
        except BaseException:
            self.close()
            raise

    def _start(self, index: int, gpus: int) -> None:
        where = (
            [
                "--head",
                f"--port={self.address.split(':')[1]}",
                f"--temp-dir={self.folder}",
                "--include-dashboard=false",
            ]
            if index == 0
            else [f"--address={self.address}"]
        )
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "start", "--block", *where, "--node-ip-address=127.0.0.1"]
        command += [f"--num-gpus={gpus}", "--num-cpus=2"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        env = {k: v for k, v in self._env.items() if k != "RAY_ADDRESS"}
        node = subprocess.Popen(
            command, env=env, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._nodes.append(node)
        self._wait(index + 1, gpus)

    def _wait(self, nodes: int, gpus: int) -> None:
        """Until the cluster has so many nodes."""
        script = (
            "import ray; ray.init(address='auto', log_to_driver=False);"
            "print('have', int(ray.cluster_resources().get('GPU', 0)))"
        )
        for _ in range(60):
            done = subprocess.run(
                [sys.executable, "-c", script],
                env=self._env,
                capture_output=True,
                text=True,
                check=False,
            )
            if f"have {nodes * gpus}" in done.stdout:
                return
            if any(node.poll() is not None for node in self._nodes):
                break
            time.sleep(1)
        raise RuntimeError(f"no cluster of {nodes} node(s): {done.stderr[-2000:]}")

    def workers(self, title: str = "RayWorkerProc") -> list[psutil.Process]:
        """Processes of vLLM's workers on every node."""
        found = []
        for node in self._nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(node.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if title in " ".join(child.cmdline()):
                            found.append(child)
        return found

    def close(self) -> None:
        """End every process of the cluster, and no other."""
        for node in reversed(self._nodes):
            with contextlib.suppress(psutil.NoSuchProcess):
                family = psutil.Process(node.pid).children(recursive=True)
                node.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    node.wait(20)
                node.kill()
                for process in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                node.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def in_cluster(cluster: Cluster) -> dict[str, str]:
    """Variables of a process that uses the cluster."""
    return {"PATH": os.environ["PATH"]} | cluster.variables
