"""`scorer calibrate`: observations of the exact chain, lines that are known, what is written."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("datasets")

from safetensors.torch import save_file

from tests.support.chain import scorers as chain_scorers
from tests.support.chain.kept_answers import keep_rows
from tests.support.chain.target import (
    HIDDEN,
    Chain,
    draft_vocabulary,
    make_chain,
    save_chain,
)
from tests.support.random_models import config_of, fields, tensors_of
from vllm_lmtp.cli import main
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.tools.scorers.cuts import cut_at
from vllm_lmtp.tools.scorers.reliability import expected_error, fit_line, reliability
from vllm_lmtp.training.data.kept_rows import Answer, read_answers
from vllm_lmtp.training.judging.observed_drafts import Drafts, drafted, observe


def kept_rows(folder: Path, chain: Chain, temperatures: list[float]) -> Path:
    """Answers that walk along the chain, with their rows."""
    walks = [chain.walk(17 * n + 3, 30 + 7 * n) for n in range(len(temperatures))]
    return keep_rows(folder, walks, temperatures)


def scored_chain(folder: Path) -> chain_scorers.ScoredChain:
    chain, vocabulary = make_chain(3, 2), draft_vocabulary()
    scorer = chain_scorers.markov(chain, vocabulary, per_head=True)
    scorer.add_to(save_chain(chain, folder, vocabulary=vocabulary))
    return chain_scorers.scored(chain, scorer)


def brute_force(chain: Chain, answers: list[Answer]) -> list[list[tuple[float, bool]]]:
    """(log-odds, right) of every place, by the chain's own rules."""
    places = len(chain.heads) * chain.stride
    found: list[list[tuple[float, bool]]] = [[] for _ in range(places)]
    for answer in answers:
        tokens = answer.tokens
        for step in range(len(tokens) - 1):
            previous = tokens[step + 1]
            for place in range(min(places, len(tokens) - step - 2)):
                lag = chain.stride - 1 - place % chain.stride
                row = tokens[max(step - lag, 0)]
                share = chain.confidence(place, row, previous)
                drafted = chain.drafted(place // chain.stride, row, previous)
                right = drafted == tokens[step + 2 + place]
                found[place].append((math.log(share / (1 - share)), right))
                if not right:
                    break
                previous = drafted
    return found


def test_observations_are_what_the_engine_would_judge(tmp_path: Path) -> None:
    chain = scored_chain(tmp_path / "heads")
    answers = read_answers(kept_rows(tmp_path / "data", chain, [0.0, 0.0]), -1)
    wanted = brute_force(chain, answers)
    for place, seen in enumerate(observe(drafted(read_checkpoint(tmp_path / "heads"), answers))):
        assert seen.right.tolist() == [right for _, right in wanted[place]]
        odds = torch.tensor([o for o, _ in wanted[place]])
        # Beyond this, float32 cannot tell a share from 1.
        assert torch.allclose(seen.odds.clamp(max=10), odds.clamp(max=10), atol=2e-2)
    assert 0 < len(wanted[-1]) < len(wanted[0])


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -1.0), (1.0, 0.0), (2.0, 1.5)])
def test_the_line_is_found(slope: float, intercept: float) -> None:
    generator = torch.Generator().manual_seed(1)
    odds = 2 * torch.randn(40_000, generator=generator)
    true = torch.sigmoid(slope * odds + intercept)
    right = torch.rand(len(odds), generator=generator) < true
    found = fit_line(odds, right)
    assert found == pytest.approx((slope, intercept), abs=0.08)
    mended = torch.sigmoid(found[0] * odds + found[1])
    assert expected_error(reliability(mended, right)) < 0.015
    if slope != 1:
        assert expected_error(reliability(torch.sigmoid(odds), right)) > 0.05


@pytest.mark.parametrize("right", [[], [True], [False] * 3])
def test_few_observations_give_a_line(right: list[bool]) -> None:
    slope, intercept = fit_line(torch.full((len(right),), 3.0), torch.tensor(right).bool())
    assert slope > 0
    assert math.isfinite(slope)
    assert math.isfinite(intercept)
    if not right:
        assert (slope, intercept) == (1.0, 0.0)


def test_reliability_by_hand() -> None:
    stated = torch.tensor([0.05, 0.07, 0.95, 1.0])
    bins = reliability(stated, torch.tensor([False, True, True, True]))
    assert [(b.seen, b.count) for b in bins] == [(0.5, 2), (1.0, 2)]
    assert expected_error(bins) == pytest.approx((2 * 0.44 + 2 * 0.025) / 4)
    assert expected_error(reliability(torch.empty(0), torch.empty(0).bool())) == 0


def test_cuts_by_hand() -> None:
    stated = torch.tensor([[0.9, 0.9], [0.9, 0.9], [0.9, 0.9], [0.5, 0.9], [0.9, 0.1]])
    answer = Drafts(stated.logit(), torch.tensor([2, 0, 0, 1, 1]), torch.tensor([2, 2, 2, 2, 1]))
    lines = Confidence((), 2)
    whole = cut_at([answer], lines, 0.0)  # positions 0 and 3, which emit 3 and 2 tokens
    assert (whole.kept, whole.accepted, whole.length, whole.rows) == (1, 3 / 4, 5 / 2, 6 / 5)
    cut = cut_at([answer], lines, 0.6)  # 0, 3 and 4, of whose drafts 2, 0 and 1 places are left
    assert (cut.kept, cut.accepted, cut.length, cut.rows) == (3 / 6, 1, 6 / 3, 6 / 6)
    both = cut_at([answer, answer], lines, 0.6)
    assert both == cut
    nothing = cut_at([answer], lines, 1.0)
    assert (nothing.kept, nothing.accepted, nothing.length, nothing.rows) == (0, 0, 1, 1)


def test_a_short_answer_has_no_drafts(tmp_path: Path) -> None:
    chain = scored_chain(tmp_path / "heads")
    answers = read_answers(kept_rows(tmp_path / "data", chain, [0.0]), -1)
    short = replace(answers[0], end=answers[0].begin + 1, tokens=answers[0].tokens[:2])
    (found,) = drafted(read_checkpoint(tmp_path / "heads"), [short])
    assert found.odds.shape == (0, 6)
    assert len(found.right) == len(found.known) == 0


def test_calibrate_writes_lines_that_are_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = scored_chain(tmp_path / "heads")
    run = tmp_path / "data"
    data = kept_rows(run / "dataset", chain, [0.0, 0.7, 0.0, 0.0, 0.7, 0.0])
    output, plot = tmp_path / "out", tmp_path / "reliability.png"
    words = ["scorer", "calibrate", str(tmp_path / "heads"), "--dataset", str(data)]
    assert main([*words, "--output", str(output), "--plot", str(plot), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    stated = config_of(output)["scorer"]["confidence"]
    assert stated["places"] == report["places"]
    assert (stated["source"], stated["answers"], stated["greedy"]) == ("data", 4, True)
    found = read_checkpoint(output).scorer
    assert found is not None
    assert found.confidence == tuple((p["slope"], p["intercept"]) for p in stated["places"])
    assert len(found.confidence) == 6
    for place in stated["places"][:2]:
        assert place["ece"] < 0.15
        assert place["fitted"] > 0 < place["measured"]
    assert found.copy_log_odds == tuple(report["copying"]["log_odds"])
    assert config_of(output)["scorer"]["copying"]["source"] == "data"
    before, after = tensors_of(tmp_path / "heads"), tensors_of(output)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "tokens" in report
    whole, *cuts = report["cuts"]
    assert (whole["least"], whole["kept"]) == (0, 1)
    for more, less in itertools.pairwise([whole, *cuts]):
        assert more["kept"] > less["kept"]
        assert more["length"] >= less["length"] >= 1


@pytest.mark.parametrize("case", ["no scorer", "one answer", "other model", "no rows"])
def test_calibrate_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    chain = scored_chain(tmp_path / "heads")
    data = kept_rows(tmp_path / "data", chain, [0.0] * (1 if case == "one answer" else 3))
    if case == "no scorer":
        save_chain(make_chain(3, 2), tmp_path / "heads")
        (tmp_path / "heads" / "scorer.safetensors").unlink()
    if case == "no rows":
        (data / "shard-000.rows.safetensors").unlink()
    if case == "other model":
        bounds = torch.tensor([0, 30, 67, 111])
        rows = {"rows": torch.zeros(111, HIDDEN // 2), "bounds": bounds}
        save_file(rows, data / "shard-000.rows.safetensors")
    words = ["scorer", "calibrate", tmp_path / "heads", "--dataset", data]
    field = {"no scorer": "scorer", "one answer": "answers"}.get(case, "rows")
    assert fields(capfd, *words, "--output", tmp_path / "out") == {field}
    assert not (tmp_path / "out").exists()
