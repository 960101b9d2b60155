"""`vllm serve CKPT --speculative-config lmtp`, compiled as by default, asked over HTTP."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.engine.client import run_with_vllm
from tests.engine.test_real import CHECKPOINT
from tests.features.server import VLLM, serving
from tests.support.dashboard import metric_names

DRAFTING = ("--speculative-config", "lmtp", "--per-request-spec-decode-metrics", "summary")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server on Runner V1, which is what a CPU runs, with vLLM's own defaults."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(log, *DRAFTING, engine=()) as server:
        yield server.address


def _metric(address: str, name: str, *labels: str) -> float:
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith(name + "{") and all(label in line for label in labels)
    ]
    assert values, f"no {name} in /metrics"
    return sum(values)


def test_completion_with_acceptance_in_the_response_and_in_metrics(url: str) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120)
    answer = client.completions.create(
        model="stories", prompt="Once upon a time", max_tokens=60, temperature=0
    ).model_dump()
    assert len(answer["choices"][0]["text"]) > 60
    of_request = answer["metrics"]["speculative_decoding"]
    assert of_request["mean_acceptance_length"] > 1

    accepted = _metric(url, "vllm:spec_decode_num_accepted_tokens_total")
    assert accepted > 0
    assert _metric(url, "vllm:lmtp_num_accepted_tokens_total") == accepted
    drafted = _metric(url, "vllm:spec_decode_num_draft_tokens_total")
    assert _metric(url, "vllm:lmtp_num_draft_tokens_total") == drafted
    assert _metric(url, "vllm:lmtp_num_draft_tokens_total", 'head="0"', 'lag="1"') > 0
    assert _metric(url, "vllm:lmtp_num_cold_drafts_total") == 0
    # Every draft was made in a pass, and the last pass is told with the next verdict, if any. A
    # pass whose draft was not worth a row has none.
    drafts = _metric(url, "vllm:spec_decode_num_drafts_total")
    assert _metric(url, "vllm:lmtp_draft_seconds_count") >= drafts - 1
    assert 0 < _metric(url, "vllm:lmtp_draft_seconds_sum") < 60


def test_the_dashboard_asks_for_what_the_server_has(url: str) -> None:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    served = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    assert {f"vllm:{name}" for name in metric_names()} <= served


def test_bench_serve_prints_acceptance(url: str) -> None:
    """One stream, for long enough that drafts are looked at: beside others none may pay."""
    command = [VLLM, "bench", "serve", "--base-url", url, "--model", "stories"]
    command += ["--tokenizer", CHECKPOINT, "--dataset-name", "random", "--num-prompts", 8]
    command += ["--random-input-len", 16, "--random-output-len", 64, "--temperature", 0]
    command += ["--max-concurrency", 1]
    done = run_with_vllm(command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Acceptance length" in done.stdout, done.stdout[-2000:]


def test_bench_serve_asks_speed_bench(url: str, tmp_path: Path) -> None:
    """A file as SPEED-Bench's own script writes it; this tokenizer has no chat template."""
    rows = [
        {"question_id": n, "category": "writing", "messages": [{"role": "user", "content": text}]}
        for n, text in enumerate(("Once upon a time", "Tom and Lily went to the", "One day"))
    ]
    (tmp_path / "qualitative.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [VLLM, "bench", "serve", "--base-url", url, "--model", "stories"]
    command += ["--tokenizer", CHECKPOINT, "--dataset-name", "speed_bench"]
    command += ["--dataset-path", tmp_path, "--speed-bench-dataset-subset", "qualitative"]
    command += ["--speed-bench-output-len", 64, "--num-prompts", 3, "--skip-chat-template"]
    command += ["--temperature", 0, "--max-concurrency", 1]
    done = run_with_vllm(command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"Successful requests: +3\b", done.stdout), done.stdout[-2000:]
    assert "Acceptance length" in done.stdout, done.stdout[-2000:]
