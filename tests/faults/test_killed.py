"""The engine core or its worker ends in mid-draft: an error for the caller, soon, and no rest.

Whole ranks and nodes that die stand in tests/distributed/test_faults.py.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.distributed.test_faults import LONG, SECONDS, Runs
from tests.engine.client import environment
from tests.engine.test_chain import prompts_of
from tests.support.chain.target import Chain

pytestmark = [pytest.mark.engine, pytest.mark.slow]
CORE, WORKER = "EngineCore", "Worker"
ONE_WORKER = {"tensor_parallel_size": 1, "distributed_executor_backend": "mp"}
"""The worker in a process of its own, as it is with several ranks."""


def processes(family: list[psutil.Process], name: str) -> list[psutil.Process]:
    return [process for process in family if name in " ".join(process.cmdline())]


@pytest.mark.feature("faults", "worker killed, or told to end, in mid-draft")
@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.timeout(900)
def test_a_worker_of_an_offline_engine(run: Runs, what: signal.Signals) -> None:
    """The run ends with vLLM's error within a minute; a new one serves.

    The core of an offline engine is not killed here: vLLM 0.32 then waits for ever, whatever drafts
    (docs/upstream/faults/killed_core.py).
    """
    with run({}, LONG, **ONE_WORKER) as running:
        running.serves()
        running.generates()
        family = psutil.Process(running.process.pid).children(recursive=True)
        (worker,) = processes(family, WORKER)
        worker.send_signal(what)
        running.must_end_with_an_error()
    with run({}, **ONE_WORKER) as running:
        running.serves()
        assert running.process.wait(SECONDS) == 0


@pytest.mark.feature("faults", "engine core killed, or told to end, under a server in mid-draft")
@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.timeout(1200)
def test_the_core_of_a_server(
    what: signal.Signals,
    chain: Chain,
    chain_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits for an answer is told within a minute, the server ends, and a new one serves."""
    from vllm_lmtp.eval.engines.servers import NAME, Server

    for key, value in environment(1).items():
        monkeypatch.setenv(key, value)
    options = {
        "dtype": "float32",
        "enforce-eager": True,
        "skip-tokenizer-init": True,
        "max-model-len": 512,
        "max-num-seqs": 4,
    }
    (prompt,) = prompts_of(chain, [40])
    for round_ in range(2):
        log = tmp_path / f"server-{round_}.log"
        server = Server(str(chain_folder), {"method": "lmtp"}, options, log, 1)
        try:
            body = {"model": NAME, "prompt": prompt, "temperature": 0, "ignore_eos": True}
            body |= {"return_token_ids": True, "detokenize": False}
            answer = _ask(server.address, body | {"max_tokens": 20})
            assert answer["choices"][0]["token_ids"] == chain.walk(prompt[-1], 20)[1:]
            if round_:
                return
            waiting = _Waiting(server.address, body | {"max_tokens": 400})
            family = psutil.Process(server._process.pid).children(recursive=True)
            (core,) = processes(family, CORE)
            core.send_signal(what)
            assert waiting.ends_within(SECONDS)
            assert waiting.failed
            assert server._process.wait(SECONDS) is not None
            _, alive = psutil.wait_procs(family, timeout=30)
            assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
        finally:
            server.close()


def _ask(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        found: dict[str, Any] = json.loads(reply.read())
    return found


class _Waiting:
    """Some requests that are answered again and again until one fails."""

    def __init__(self, address: str, body: dict[str, Any]) -> None:
        self.failed = False
        self._threads = [
            threading.Thread(target=self._ask, args=(address, body), daemon=True) for _ in range(3)
        ]
        for thread in self._threads:
            thread.start()
        time.sleep(2)
        assert not self.failed

    def _ask(self, address: str, body: dict[str, Any]) -> None:
        try:
            while True:
                _ask(address, body)
        except (OSError, ValueError, urllib.error.URLError):
            self.failed = True

    def ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)
