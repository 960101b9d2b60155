"""Expected acceptance of drawn drafts against sums written out, token by token."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch

pytest.importorskip("datasets")

from safetensors.torch import load_file

from tests.support.chain import scorers as chain_scorers
from tests.support.chain.kept_answers import keep_rows
from tests.support.chain.target import VOCAB, embeddings, make_chain, save_chain
from vllm_lmtp.eval.offline.draft_temperature import BEST, main, measure
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.read import draft_vocabulary
from vllm_lmtp.training.data.kept_rows import read_answers

LOW, WARM = 0.25, 6.0
"""The chain's votes count 12, so only a high temperature leaves anything to chance."""
VOCABULARY = tuple(sorted(random.Random(1).sample(range(VOCAB), 401)))


def softmax(values: list[float], temperature: float) -> list[float]:
    top = max(values)
    powers = [math.exp((v - top) / temperature) for v in values]
    return [p / sum(powers) for p in powers]


def test_expected_acceptance_is_the_sum_written_out(tmp_path: Path) -> None:
    chain = make_chain(2, 2)
    scorer = chain_scorers.markov(chain, VOCABULARY)
    heads = scorer.add_to(save_chain(chain, tmp_path / "heads", vocabulary=VOCABULARY))
    checkpoint, rng = read_checkpoint(heads), random.Random(3)
    texts = [[rng.randrange(VOCAB)] for _ in range(2)]
    for text, length in zip(texts, (9, 7), strict=True):
        while len(text) < length:
            text.append(chain.successor[text[-1]] if rng.random() < 0.7 else rng.randrange(VOCAB))
    answers = read_answers(keep_rows(tmp_path / "data", texts, [WARM, WARM]), -1)
    matrix = load_file(heads / "model.safetensors")["lm_head.weight"]
    found = measure(checkpoint, matrix, answers, WARM, [LOW, WARM])
    assert [d["drawn_at"] for d in found["drafts"]] == [BEST, "0.25", "6"]
    assert found["positions"] == 7 + 5

    ours, index = chain_scorers.scored(chain, scorer), {x: j for j, x in enumerate(VOCABULARY)}
    assert draft_vocabulary(checkpoint).tolist() == list(VOCABULARY)  # type: ignore[union-attr]
    target = [softmax(row, WARM) for row in (embeddings() @ matrix.T).tolist()]
    for draft, drawn_at in zip(found["drafts"], (None, LOW, WARM), strict=True):
        wanted = [0.0] * 4
        for answer in answers:
            tokens = answer.tokens
            for step in range(len(tokens) - 2):
                weight = 1.0
                for place in range(min(4, len(tokens) - step - 2)):
                    row, previous = tokens[max(step - (1 - place % 2), 0)], tokens[step + 1 + place]
                    scores = ours._votes(place // 2, row, previous).tolist()
                    p, truth = target[previous], tokens[step + 2 + place]
                    if drawn_at is None:
                        best = VOCABULARY[scores.index(max(scores))]
                        wanted[place] += weight * p[best]
                        weight *= best == truth
                        continue
                    q = softmax(scores, drawn_at)
                    wanted[place] += weight * sum(
                        min(p[x], share) for x, share in zip(VOCABULARY, q, strict=True)
                    )
                    there = q[index[truth]] if truth in index else 0.0
                    weight *= min(1.0, there / p[truth])
        assert draft["accepted"] == pytest.approx([w / 12 for w in wanted], rel=1e-4, abs=1e-7)
        assert draft["length"] == pytest.approx(1 + sum(wanted) / 12, rel=1e-5)
        gain = draft["length"] - found["drafts"][0]["length"]
        assert draft["gain"] == pytest.approx(gain, abs=1e-9)
    assert len({d["length"] for d in found["drafts"]}) == 3


def test_the_script_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = make_chain(1, 2)
    heads = save_chain(chain, tmp_path / "heads", "heads")
    plain = save_chain(chain, tmp_path / "plain", "plain")
    texts = [chain.walk(start, 12) for start in (3, 50, 90)]
    data = keep_rows(tmp_path / "data", texts, [0.7, 0.7, 0.0])
    words = [str(heads), "--teacher", str(plain), "--dataset", str(data), "--temperature", "0.7"]
    assert main([*words, "--output", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["answers"], found["temperature"]) == (2, 0.7)
    assert f"| {BEST} | {found['drafts'][0]['length']:.3f} ±" in capsys.readouterr().out
    assert torch.isfinite(torch.tensor([d["length"] for d in found["drafts"]])).all()
