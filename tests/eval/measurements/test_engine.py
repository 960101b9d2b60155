"""The three measurements through real engines on the exact-chain target: every number is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.chain import scorers as chain_scorers
from tests.support.chain.stream_simulator import simulate_streams
from tests.support.chain.target import (
    Chain,
    Counters,
    draft_vocabulary,
    make_chain,
    save_chain,
    served,
    simulate,
)
from tests.support.command import Result, vllm_lmtp

pytestmark = pytest.mark.engine
TOKENS = 40
PROMPTS = {"even": [(2, 6), (40, 1)], "odd": [(7, 12), (301, 5), (55, 3)]}
BY_TURNS = [(2, 6), (7, 12), (40, 1), (301, 5), (55, 3)]
"""As loads ask them: the first of each group, then the second of each, and so on."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs of heads beside one target, and a file of prompts as tokens."""
    folder = tmp_path_factory.mktemp("eval")
    save_chain(leap(), folder / "leap")
    save_chain(adjacent(), folder / "adjacent", "heads")
    save_chain(leap(), folder / "reduced", "heads", vocabulary=draft_vocabulary(), int8=True)
    rows = [
        {"tokens": leap().walk(start, length - 1), "group": group}
        for group, walks in PROMPTS.items()
        for start, length in walks
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def leap() -> Chain:
    return make_chain(2, 2)


def adjacent() -> Chain:
    return make_chain(3, 1, seed=0)


def evaluate(folder: Path, what: str, *words: str | Path) -> Result:
    common = ("--model", folder / "leap", "--set", folder / "prompts.jsonl", "--threads", "1")
    size = ("--max-tokens", str(TOKENS), "--batch", "2", "--json")
    return vllm_lmtp("eval", what, *common, *size, *words)


def expected(chain: Chain, num_drafts: int, group: str | None = None) -> Counters:
    total = Counters.zero(num_drafts)
    for name, walks in PROMPTS.items():
        if group in (None, name):
            for start, length in walks:
                total += simulate(chain, chain.walk(start, length - 1), TOKENS, num_drafts)[1]
    return total


def check(result: dict[str, Any], counters: Counters) -> None:
    """A summary of acceptance against the simulator."""
    assert result["drafts"] == counters.num_drafts
    assert [p["accepted"] for p in result["by_position"]] == counters.accepted_per_pos
    assert [p["drafted"] for p in result["by_position"]] == counters.drafted_per_pos
    length = 1 + sum(counters.accepted_per_pos) / counters.num_drafts
    assert result["token_weighted"]["value"] == pytest.approx(length)


def test_acceptance_of_several_heads_on_the_same_prompts(folder: Path) -> None:
    heads = [f"{name}={folder / name}" for name in ("leap", "adjacent", "reduced")]
    words = [word for one in heads for word in ("--heads", one)]
    done = evaluate(
        folder, "acceptance", *words, "--temperature", "0", "--output", folder / "report"
    )
    assert done.code == 0, done.stderr
    result = done.value
    chains = (leap(), adjacent(), served(leap(), draft_vocabulary()))
    for variant, chain, drafts in zip(result["variants"], chains, (4, 3, 4), strict=True):
        assert variant["num_drafts"] == drafts
        (at,) = variant["temperatures"]
        counters = expected(chain, drafts)
        check(at["all"], counters)
        assert at["counters"]["drafts"] == at["all"]["drafts"]
        assert at["counters"]["accepted_tokens"] == at["all"]["accepted_tokens"]
        assert at["counters"]["draft_tokens"] == at["all"]["draft_tokens"]
        assert at["counters"]["cold_drafts"] == counters.cold
        for group in PROMPTS:
            assert at["by_group"][group]["drafts"] == expected(chain, drafts, group).num_drafts
        assert at["loops"]["answers"] == 0
        assert [r["tokens"] for r in at["requests"]] == [TOKENS] * 5
    assert result["variants"][2]["draft_vocabulary"] == 401
    assert "adjacent, T = 0: 5 of 5 answers" in done.stderr
    check_files(folder / "report", result, done)


def check_files(report: Path, result: dict[str, Any], done: Result) -> None:
    assert json.loads((report / "acceptance.json").read_text()) == result
    assert (report / "acceptance.png").read_bytes().startswith(b"\x89PNG")
    page = (report / "acceptance.md").read_text()
    assert vllm_lmtp("eval", "render", report / "acceptance.json").stdout.strip() == page.strip()
    for name in ("leap", "adjacent", "reduced"):
        assert f"**{name}** by place" in page
    everything = page + json.dumps(result)
    assert str(report.parent) not in everything  # no path of the machine it was made on
    assert "--set prompts.jsonl" in result["provenance"]["command"]


def test_options_and_sampling(folder: Path) -> None:
    """With two drafts later places are never made; above T = 0 every draft still counts."""
    done = evaluate(
        folder, "acceptance", "--option", "num_speculative_tokens=2", "--temperature", "0", "1"
    )
    assert done.code == 0, done.stderr
    (variant,) = done.value["variants"]
    cold, hot = variant["temperatures"]
    check(cold["all"], expected(leap(), 2))
    assert variant["options"] == {"num_speculative_tokens": 2}
    assert hot["counters"]["accepted_tokens"] == hot["all"]["accepted_tokens"]
    assert hot["counters"]["drafts"] == hot["all"]["drafts"] == sum(hot["all"]["histogram"])


def test_scorers_of_the_same_heads(folder: Path) -> None:
    """One run serves the same heads with and without their scorer."""
    scorer = chain_scorers.table(leap())
    heads = scorer.add_to(save_chain(leap(), folder / "scored", "heads"))
    words = ("--heads", f"h={heads}", "--scorer", "none", "--scorer", "table")
    done = evaluate(folder, "acceptance", *words, "--temperature", "0")
    assert done.code == 0, done.stderr
    without, scored = done.value["variants"]
    assert (without["name"], without["scorer"]) == ("h, none", "none")
    assert (scored["name"], scored["scorer"]) == ("h, table", "table")
    check(without["temperatures"][0]["all"], expected(leap(), 4))
    check(scored["temperatures"][0]["all"], expected(chain_scorers.scored(leap(), scorer), 4))


def test_head_accuracy(folder: Path) -> None:
    done = evaluate(
        folder,
        "heads",
        "--heads",
        f"leap={folder / 'leap'}",
        "--heads",
        f"reduced={folder / 'reduced'}",
        "--temperature",
        "0",
        "--output",
        folder / "report",
    )
    assert done.code == 0, done.stderr
    (at,) = done.value["temperatures"]
    assert (at["answers"], at["tokens"], at["looping_answers"]) == (5, 5 * TOKENS, 0)
    assert at["lm_head"]["top1"]["rate"] == 1
    whole, reduced = at["heads"]
    for found, chain in ((whole, leap()), (reduced, served(leap(), draft_vocabulary()))):
        for own in found["all"]["own_offset"]:
            hits, tries = count_hits(chain, own["head"])
            assert (own["top1"]["hits"], own["top1"]["tries"]) == (hits, tries)
    inside = set(draft_vocabulary())
    answers = [t for a in all_answers() for t in a]
    assert reduced["all"]["coverage"]["hits"] == sum(t in inside for t in answers)
    assert whole["all"]["coverage"]["rate"] == 1
    assert (folder / "report" / "heads.png").read_bytes().startswith(b"\x89PNG")
    assert "Head accuracy" in (folder / "report" / "heads.md").read_text()


def all_answers() -> list[list[int]]:
    chain = leap()
    return [
        chain.walk(chain.walk(start, length - 1)[-1], TOKENS)[1:]
        for walks in PROMPTS.values()
        for start, length in walks
    ]


def count_hits(chain: Chain, head: int) -> tuple[int, int]:
    """A head's right tokens at its own offset, from the prompt's last token on."""
    offset, hits, tries = 1 + chain.stride * (head + 1), 0, 0
    for walks in PROMPTS.values():
        for start, length in walks:
            last = chain.walk(start, length - 1)[-1]
            tokens = chain.walk(last, TOKENS)
            for row in range(len(tokens) - offset):
                hits += chain.heads[head][tokens[row]] == tokens[row + offset]
                tries += 1
    return hits, tries


def test_lossless(folder: Path) -> None:
    done = evaluate(folder, "lossless", "--output", folder / "report")
    assert done.code == 0, done.stderr
    (variant,) = done.value["variants"]
    assert (variant["identical"], variant["answers"], variant["differences"]) == (5, 5, [])
    assert variant["tokens"] == 5 * TOKENS
    assert "| leap | 5 | 200 | 5 |" in (folder / "report" / "lossless.md").read_text()


OF_NOTHING = 0.9999999
"""A cut that no draft is sure enough for."""


def compare_speed(folder: Path, *words: str | Path) -> Result:
    common = ("--model", folder / "leap", "--set", folder / "prompts.jsonl", "--threads", "1")
    size = ("--max-tokens", str(TOKENS), "--least", "5", "--eager", "--rounds", "2", "--json")
    return vllm_lmtp(*words, *common, *size)


def check_load(load: dict[str, Any], counters: Counters, rounds: int = 2) -> None:
    """Counts of some rounds, and times that only a real engine has."""
    assert load["drafts"] == rounds * counters.num_drafts
    assert load["accepted_tokens"] == rounds * sum(counters.accepted_per_pos)
    assert load["draft_tokens"] == rounds * sum(counters.drafted_per_pos)
    assert 0 < load["draft_ms"] < load["step_ms"]
    check_answers(load, rounds)


def check_answers(load: dict[str, Any], rounds: int) -> None:
    answers = 5 * rounds
    assert load["answers"] == {"answers": answers, "identical": answers, "first_differences": []}


def test_speed_of_methods_taking_turns(folder: Path) -> None:
    words = ("eval", "speed", "--streams", "1", "2", "--output", folder / "speed")
    methods = ("--only", "scorer none", "--method", 'broken={"method": "draft_model"}')
    done = compare_speed(folder, *words, *methods)
    assert done.code == 0, done.stderr
    found = done.value
    assert [m["name"] for m in found["methods"]] == ["plain", "lmtp, whole drafts, scorer none"]
    assert [m["name"] for m in found["not_measured"]] == ["broken"]
    assert [(s["streams"], s["method"]) for s in found["speed"]] == [
        (streams, name)
        for streams in (1, 2)
        for name in ("plain", "lmtp, whole drafts, scorer none")
    ]
    for load in found["speed"]:
        assert load["requests"] == 5
        assert load["tokens"] == 2 * 5 * TOKENS
        if load["method"] != "plain":
            asked = [leap().walk(start, length - 1) for start, length in BY_TURNS]
            check_load(load, simulate_streams(leap(), asked, load["streams"], TOKENS, 4)[1])
    first, second = (s for s in found["speed"] if s["method"] == "plain")
    assert first["drafts"] == second["drafts"] == 0

    again = compare_speed(folder, *words, *methods)
    assert again.code == 0, again.stderr
    assert again.value["speed"] == found["speed"]
    assert again.stderr.count("measured before") == 8


@pytest.mark.slow
def test_tuning_writes_a_configuration_that_serves(folder: Path) -> None:
    words = ("tune", "--streams", "1", "2", "--lengths", "1", "3", "--output", folder / "tuned")
    learnt = folder / "tuned" / "length.json"
    options = ("--least-gain", "0", "--cuts", str(OF_NOTHING), "--length-file", learnt)
    done = compare_speed(folder, *words, *options)
    assert done.code == 0, done.stderr
    found = done.value
    assert {"1", "2"} <= json.loads(learnt.read_text())["state"]["sizes"].keys()
    assert {(load["length"], load["cut"]) for load in found["loads"]} == {
        (0, 0.0),
        *((length, cut) for length in (1, 3) for cut in (0.0, OF_NOTHING)),
    }
    for load in found["loads"]:
        # What speed this machine has today decides which settings are given up after one round.
        rounds = 1 if load.get("given_up") else 2
        if load["length"] and not load["cut"]:
            check_load(load, expected(leap(), load["length"]), rounds)
        else:
            assert load["draft_tokens"] == 0
            check_answers(load, rounds)
    config = yaml.safe_load((folder / "tuned" / "tuned.yaml").read_text())
    assert config["max-num-seqs"] == 2
    chosen = {entry["streams"]: entry["length"] for entry in found["chosen"]}
    if not any(chosen.values()):  # on this machine, today
        assert "speculative-config" not in config
        return
    speculative = json.loads(config["speculative-config"])
    assert speculative["num_speculative_tokens_per_batch_size"] == found["schedule"]
    assert speculative["num_speculative_tokens"] == max(chosen.values())
