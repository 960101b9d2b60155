"""The demo and the doctor, with a real vLLM, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chain.target import Counters, make_chain, save_chain, simulate
from tests.support.command import vllm_lmtp

pytestmark = pytest.mark.engine


def test_demo_counts_what_the_chain_predicts(tmp_path: Path) -> None:
    chain = make_chain(2, 2)
    folder = save_chain(chain, tmp_path / "chain")
    done = vllm_lmtp(
        "demo", "--model", folder, "--prompts", "3", "--max-tokens", "24", "--rounds", "1", "--json"
    )
    assert done.code == 0, done.stderr
    result = done.value
    assert result["identical"]
    assert result["must_be_identical"]
    assert (result["n_heads"], result["stride"]) == (2, 2)

    expected = alone = Counters.zero(4)
    for asked in result["prompts"]:
        output, counters = simulate(chain, asked["prompt"], 24, 4)
        assert asked["lmtp"]["tokens"] == asked["plain"]["tokens"] == output
        expected += counters
        alone += simulate(chain, asked["prompt"], 24, 4, copy_odds=())[1]
    assert result["acceptance_of_heads_alone"]["drafts"] == alone.num_drafts
    acceptance = result["acceptance"]
    accepted = sum(expected.accepted_per_pos)
    assert acceptance["drafts"] == expected.num_drafts
    assert acceptance["accepted_tokens"] == accepted
    assert acceptance["cold_drafts"] == expected.cold
    assert [p["drafted"] for p in acceptance["by_position"]] == expected.drafted_per_pos
    assert [p["accepted"] for p in acceptance["by_position"]] == expected.accepted_per_pos
    assert acceptance["mean_acceptance_length"] == 1 + accepted / expected.num_drafts
    # Each request takes one step for its prompt and one for each draft.
    assert acceptance["engine_steps"] == 3 + expected.num_drafts
    assert acceptance["tokens_per_step"] == 3 * 24 / acceptance["engine_steps"]
    for group in ("by_head", "by_lag", "by_source"):
        assert sum(g["accepted"] for g in acceptance[group]) == accepted
    assert {1, 4} <= {used["requests"] for used in result["draft_lengths"]} <= {1, 2, 4}
    assert [speed["streams"] for speed in result["speed"]] == [1, 3]
    for speed in result["speed"]:
        assert speed["plain_tokens_per_second"] > 0
        assert len(speed["ratio_of_each_round"]) == 1


def test_doctor_on_this_installation(tmp_path: Path) -> None:
    folder = save_chain(make_chain(2, 2, wrong=0), tmp_path / "chain")
    done = vllm_lmtp("doctor", "--heads", folder, "--json")
    facts = done.value
    found = {check["name"]: check["status"] for check in facts["checks"]}
    # Whether the command `vllm` works depends on how this machine was set up.
    command = found.pop("command vllm")
    assert set(found.values()) == {"ok"}, done.stdout
    assert done.code == (1 if command == "problem" else 0)
    assert facts["ok"] == (done.code == 0)
    assert facts["measurement"]["finding"]["stride"] == 2
    assert {"Python", "torch", "vLLM", "plugin", "platform", "model runner"} <= set(found)
    assert {"patch runner_v1", "patch metrics", "heads", "target", "stride"} <= set(found)
