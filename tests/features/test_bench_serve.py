"""`vllm bench serve` prints acceptance.

Drafts are made in every step: a length found while serving may be none for as short a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.client import run_with_vllm
from tests.engine.test_real import CHECKPOINT
from tests.features.server import DRAFTS, VLLM, Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("bench") / "log", "--speculative-config", DRAFTS) as host:
        yield host


def _bench(server: Server, *options: object) -> str:
    command = [VLLM, "bench", "serve", "--base-url", server.address, "--model", "stories"]
    command += ["--tokenizer", CHECKPOINT, "--temperature", 0, *options]
    done = run_with_vllm(command)
    assert done.returncode == 0, done.stderr[-2000:]
    return str(done.stdout)


def test_of_random_prompts(server: Server) -> None:
    lengths = ("--random-input-len", 16, "--random-output-len", 64)
    page = _bench(server, "--dataset-name", "random", "--num-prompts", 8, *lengths)
    assert "Acceptance length" in page, page[-2000:]


def test_of_speed_bench(server: Server, tmp_path: Path) -> None:
    """A file as SPEED-Bench's own script writes it; this tokenizer has no chat template."""
    rows = [
        {"question_id": n, "category": "writing", "messages": [{"role": "user", "content": text}]}
        for n, text in enumerate(("Once upon a time", "Tom and Lily went to the", "One day"))
    ]
    (tmp_path / "qualitative.jsonl").write_text("\n".join(map(json.dumps, rows)))
    which = ("--dataset-name", "speed_bench", "--dataset-path", tmp_path, "--num-prompts", 3)
    which += ("--speed-bench-dataset-subset", "qualitative", "--skip-chat-template")
    page = _bench(server, *which, "--speed-bench-output-len", 64)
    assert re.search(r"Successful requests: +3\b", page), page[-2000:]
    assert "Acceptance length" in page, page[-2000:]
