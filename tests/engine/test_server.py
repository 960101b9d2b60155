"""`vllm serve CKPT --speculative-config lmtp`, compiled as by default, asked over HTTP."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.features.server import serving
from tests.support.dashboard import metric_names

MOST_ANSWERS = 20
"""Within which drafts are made: on a busy machine a look at them may come late."""
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
    for _ in range(MOST_ANSWERS):
        answer = client.completions.create(
            model="stories", prompt="Once upon a time", max_tokens=60, temperature=0
        ).model_dump()
        assert len(answer["choices"][0]["text"]) > 60
        of_request = answer["metrics"]["speculative_decoding"]
        if of_request["mean_acceptance_length"] > 1:
            break
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
