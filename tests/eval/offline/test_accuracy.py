"""Head accuracies and chains on texts whose every rank is known."""

from __future__ import annotations

import random

import pytest
import torch

from tests.support.chain.target import VOCAB, Chain, make_chain
from vllm_lmtp.eval.offline.accuracy import RankedText, chain, coverage, summarise
from vllm_lmtp.method.leap import LeapSchedule


def ranked(made: Chain, start: int, prompt: int, answer: int, best: int = 20) -> RankedText:
    """A walk along the chain, and its heads' tokens: `best` a row, the chain's own first."""
    tokens = torch.tensor(made.walk(start, prompt + answer - 1))
    tops = []
    for head in made.heads:
        rows = []
        for token in tokens.tolist():
            others = [t % VOCAB for t in range(head[token] + 1, head[token] + best)]
            rows.append([head[token], *others])
        tops.append(torch.tensor(rows))
    return RankedText(tokens, prompt, tuple(tops), "even" if start % 2 == 0 else "odd")


def exact(n_heads: int, stride: int) -> Chain:
    return make_chain(n_heads, stride, wrong=0)


def test_exact_heads_are_right_at_their_offset_alone() -> None:
    made, schedule = exact(3, 2), LeapSchedule(3, 2)
    texts = [ranked(made, start, 4, 30, best=1) for start in (1, 50)]
    found = summarise(texts, schedule, 12)
    for entry in found["by_offset"]:
        own = entry["offset"] == 1 + 2 * (entry["head"] + 1)
        assert entry["top1"]["rate"] == (1.0 if own else 0.0)
    assert found["chains"]["top1"]["length"]["value"] == 7
    assert found["lengths"]["attenuation"] == 0
    assert found["lengths"]["paper"] == found["lengths"]["independent_places"] == 7
    assert found["lengths"]["paper_adjacent_same_heads"] == 4


def test_every_offset_has_its_own_denominator() -> None:
    """An answer of n tokens has n - o + 1 rows, the prompt's last included, with one o ahead."""
    made = exact(2, 2)
    found = summarise([ranked(made, 3, 5, 10), ranked(made, 9, 2, 4)], LeapSchedule(2, 2), 12)
    tries = {(e["head"], e["offset"]): e["top1"]["tries"] for e in found["by_offset"]}
    for offset in range(1, 13):
        expected = max(0, 10 - offset + 1) + max(0, 4 - offset + 1)
        assert tries[0, offset] == tries[1, offset] == expected
    assert [e["top1"]["tries"] for e in found["by_place"]] == [9 + 3, 8 + 2, 7 + 1, 6]
    assert (found["answers"], found["tokens"]) == (2, 14)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_wrong_entries_cost_what_they_weigh(stride: int) -> None:
    """Once around the whole cycle, every entry of a head is read exactly once."""
    made, schedule = make_chain(2, stride), LeapSchedule(2, stride)
    last = schedule.offset_of_head(1)
    found = summarise([ranked(made, 0, stride, VOCAB + last - 1)], schedule, last)
    wrong = int(0.25 * VOCAB)
    for own in found["own_offset"]:
        extra = last - own["offset"]
        assert own["top1"]["tries"] == VOCAB + extra
        assert abs(own["top1"]["hits"] - (VOCAB - wrong)) <= extra
    assert found["own_offset"][-1]["top1"]["hits"] == VOCAB - wrong


@pytest.mark.parametrize(
    ("n_heads", "stride", "prompt"), [(3, 2, 5), (3, 2, 1), (2, 3, 2), (4, 1, 3)]
)
def test_a_chain_is_walked_as_the_engine_walks(n_heads: int, stride: int, prompt: int) -> None:
    """Against the definition, step by step; prompts too short for a lag read their oldest row."""
    made, schedule = make_chain(n_heads, stride, seed=3), LeapSchedule(n_heads, stride)
    rng = random.Random(5)
    texts = [ranked(made, rng.randrange(VOCAB), prompt, 60) for _ in range(8)]
    accepted, tried = [0] * schedule.max_drafts, [0] * schedule.max_drafts
    steps = 0
    for text in texts:
        tokens = text.tokens.tolist()
        now = prompt - 1
        while now + 2 < len(tokens):
            steps += 1
            unbroken = True
            taken = 0
            for place in range(schedule.max_drafts):
                if now + place + 2 >= len(tokens):
                    break
                source = schedule.source(place)
                drafted = made.heads[source.head][tokens[now - min(source.lag, now)]]
                unbroken = unbroken and drafted == tokens[now + place + 2]
                tried[place] += 1
                accepted[place] += unbroken
                taken += unbroken
            now += taken + 1
    found = chain(texts, schedule, 1)
    assert found["steps"] == steps
    assert [r["hits"] for r in found["reached"]] == accepted
    assert [r["tries"] for r in found["reached"]] == tried
    length = 1 + sum(a / t for a, t in zip(accepted, tried, strict=True))
    assert found["length"]["value"] == pytest.approx(length)
    assert found["length"]["se"] > 0


def test_the_right_one_of_the_best_bounds_the_chain() -> None:
    """Heads whose best token is wrong and whose third is right: nothing at top-1, all at top-5."""
    made = exact(2, 2)
    text = ranked(made, 7, 3, 25)
    tops = tuple(top[:, [1, 2, 0, *range(3, 20)]] for top in text.tops)
    found = summarise([RankedText(text.tokens, 3, tops)], LeapSchedule(2, 2), 5)
    assert [found["chains"][f"top{n}"]["length"]["value"] for n in (1, 5, 10, 20)] == [1, 5, 5, 5]
    assert [e["top1"]["rate"] for e in found["own_offset"]] == [0, 0]
    assert [e["top5"]["rate"] for e in found["own_offset"]] == [1, 1]
    assert found["lengths"]["attenuation"] is None


def test_coverage_counts_answers_only_and_by_group() -> None:
    made = exact(1, 2)
    texts = [ranked(made, 2, 3, 20), ranked(made, 5, 3, 40)]
    vocabulary = torch.arange(0, VOCAB, 2)
    found = coverage(texts, vocabulary)
    inside = [sum(t % 2 == 0 for t in text.tokens[3:].tolist()) for text in texts]
    assert (found["hits"], found["tries"]) == (sum(inside), 60)
    assert found["by_group"]["even"]["rate"] == inside[0] / 20
    assert found["by_group"]["odd"]["rate"] == inside[1] / 40
    assert coverage(texts, None)["rate"] == 1


def test_answers_too_short_to_draft_for() -> None:
    found = summarise([ranked(exact(2, 2), 1, 2, 1)], LeapSchedule(2, 2), 12)
    assert found["chains"]["top1"]["steps"] == 0
    assert found["chains"]["top1"]["length"] == {"value": None, "se": None}
    assert all(e["top1"]["rate"] is None for e in found["by_place"])
