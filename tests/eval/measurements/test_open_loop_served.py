"""`vllm-lmtp eval serve` with real servers: what `vllm bench serve` counts is what must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import vllm_lmtp
from tests.support.random_models import EMBEDDED
from tests.support.transformers_oracle import Oracle
from vllm_lmtp.eval.prompts.asking import Settings, encode_prompts
from vllm_lmtp.eval.prompts.sets import load_set

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(3600)]
REQUESTS, TOKENS = 5, 24


def test_servers_draft_what_the_oracle_says(tmp_path: Path) -> None:
    words = ("--set", "stories", "--style", "raw", "--max-tokens", str(TOKENS), "--threads", "1")
    load = ("--rates", "8", "inf", "--requests", str(REQUESTS), "--rounds", "1", "--batch", "4")
    only = ("--only", "scorer markov", "--eager", "--output", tmp_path / "out", "--json")
    done = vllm_lmtp("eval", "serve", *words, *load, *only)
    assert done.code == 0, done.stderr
    found = done.value
    assert found["not_measured"] == []

    settings = Settings(str(EMBEDDED), TOKENS, "float32", 4, 0, "raw")
    asked = encode_prompts(load_set("stories", None, None), settings).asked[:REQUESTS]
    oracle = Oracle(EMBEDDED)
    counters = [oracle.expect(a.tokens, TOKENS)[1] for a in asked]
    drafts = sum(c.num_drafts for c in counters)
    accepted = sum(sum(c.accepted_per_pos) for c in counters)
    for load_found in found["served"]:
        assert load_found["requests"] == REQUESTS
        assert load_found["answer_ms"]["median"] >= load_found["first_token_ms"]["median"] > 0
        if load_found["method"] == "plain":
            assert load_found["acceptance_length"] is None
        else:
            assert load_found["acceptance_length"] == pytest.approx(1 + accepted / drafts)
    assert (tmp_path / "out" / "serve.png").read_bytes().startswith(b"\x89PNG")
