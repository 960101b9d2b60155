"""`vllm serve` of the embedded checkpoint for a while, with drafts or without."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.engine.client import environment
from tests.engine.test_real import CHECKPOINT

VLLM = Path(sys.executable).parent / "vllm"
START_SECONDS = 300
DRAFTS = json.dumps({"method": "lmtp", "lmtp_draft_length": "fixed"})
ENGINE = ["--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "8"]
ENGINE += ["--enforce-eager", "--seed", "0"]


class Server:
    """Asks one server, whose model is called `stories`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = OpenAI(base_url=f"{address}/v1", api_key="none", timeout=120)

    def complete(self, prompt: str, **asked: Any) -> Any:
        asked = {"temperature": 0, "max_tokens": 40} | asked
        return self.client.completions.create(model="stories", prompt=prompt, **asked)

    def chat(self, words: str, **asked: Any) -> Any:
        asked = {"temperature": 0, "max_tokens": 40} | asked
        messages: Any = [{"role": "user", "content": words}]
        return self.client.chat.completions.create(model="stories", messages=messages, **asked)

    def metric(self, name: str) -> float:
        """The sum over all labels."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=30) as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


@contextlib.contextmanager
def serving(log: Path, *options: str, engine: Sequence[str] = ENGINE) -> Iterator[Server]:
    """A server until the block ends; its log goes to a file. engine: options of most tests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [VLLM, "serve", CHECKPOINT, *engine, *options, "--served-model-name", "stories"]
    command += ["--host", "127.0.0.1", "--port", port]
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(part) for part in command], env=environment(1), stdout=out, stderr=out
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _healthy(address):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start; its log ends:\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield Server(address)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False
