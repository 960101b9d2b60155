"""The commands on real engines and servers: nothing differs, and what is altered is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.client import GPU, environment
from tests.support.command import vllm_lmtp

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]
SMALL = ("--threads", "1", "--batch", "16", "--json")


def test_answers_by_the_block_and_one_altered_token(tmp_path: Path) -> None:
    """Chunks, preemption and cached prefixes among 900 tokens; then one token of plain decoding's
    record is another, and only the block that it is in is answered again."""
    words = ("eval", "exact", "--tokens", "900", "--block", "600", *SMALL, "--output", tmp_path)
    words += ("--max-tokens", "100", "--context", "160", "--chunk", "48")
    words += ("--option", "lmtp_draft_length=fixed")  # or on a busy machine none may pay
    done = vllm_lmtp(*words)
    assert done.code == 0, done.stderr
    found = done.value
    (variant,) = found["variants"]
    assert (variant["different"], variant["broken"], variant["not_seen"]) == (0, [], [])
    assert variant["tokens"] == found["plain"]["tokens"] >= 900
    assert variant["runner"] == (2 if GPU else 1)
    assert sum(row["drafted"] for row in variant["by_place"]) > 0
    assert all(row["drafted"] == row["accepted"] + row["refused"] for row in variant["by_source"])
    assert "tokens/s" in done.stderr

    file = tmp_path / "blocks.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    plain = next(row["row"] for row in rows if "answers" in row["row"])
    altered = plain["answers"][4]
    altered[-1] = (altered[-1] + 1) % 1000
    first = next(number for number, row in enumerate(rows) if "differences" in row["row"])
    del rows[first]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = vllm_lmtp(*words)
    assert done.code == 1, done.stderr
    (variant,) = done.value["variants"]
    (difference,) = variant["differences"]
    place = (difference["block"], difference["request"], difference["place"])
    assert place == (0, 4, len(altered) - 1)
    assert difference["plain"] == altered[-1]
    assert difference["margin"] < 0  # transformers thinks as L-MTP does
    assert "plain: starting" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(GPU, reason="on a GPU the test above runs Runner V2")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_runner_v2(asynchronous: bool, tmp_path: Path) -> None:
    """Under Triton's interpreter, and so with few tokens."""
    words = ("eval", "exact", "--tokens", "400", "--block", "200", *SMALL, "--max-tokens", "40")
    words += ("--context", "96", "--chunk", "48", "--output", tmp_path, "--whole")
    done = vllm_lmtp(*words, **environment(2, asynchronous))
    assert done.code == 0, done.stderr
    for variant in done.value["variants"]:
        assert (variant["different"], variant["broken"], variant["not_seen"]) == (0, [], [])
        assert (variant["runner"], variant["asynchronous"]) == (2, asynchronous)


@pytest.mark.slow
def test_servers_under_load(tmp_path: Path) -> None:
    words = ("eval", "soak", "--minutes", "0.34", "--every", "1", "--prompts", "12", *SMALL)
    done = vllm_lmtp(*words, "--max-tokens", "64", "--output", tmp_path)
    assert done.code == 0, done.stderr
    found = done.value
    for server in found["servers"]:
        assert (server["lost"], server["wrong"], server["broken"]) == (0, 0, [])
        assert server["answers"] + server["broken_off"] == found["load"]["requests"] + 1
        assert server["log"] == []
        assert {"server", "VLLM::EngineCore"} <= {
            process["process"] for process in server["memory"]["processes"]
        }
    plain, lmtp = found["servers"]
    assert plain["drafts"] == 0
    assert lmtp["drafts"] > 0
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
