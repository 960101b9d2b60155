"""`scorer sweep` against drafts that are filled and judged by the chain's own rules."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch

pytest.importorskip("datasets")

from tests.support.chain import scorers as chain_scorers
from tests.support.chain.kept_answers import keep_rows
from tests.support.chain.target import (
    VOCAB,
    VOTE,
    Chain,
    draft_vocabulary,
    embeddings,
    make_chain,
    rows_that_vote,
    save_chain,
)
from tests.support.random_models import fields, succeed
from vllm_lmtp.cli import main
from vllm_lmtp.eval.offline.beam import Beam, parse_beam, search
from vllm_lmtp.eval.offline.sweep import (
    NONE,
    OWN,
    TABLE,
    Candidate,
    Table,
    Tally,
    candidates,
    first_tokens,
    summary,
    sweep,
    tables,
)
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_checkpoint
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.method.scorer import MarkovScorer, Scorer, SuccessorTable
from vllm_lmtp.tools.scorers.successors import no_pairs
from vllm_lmtp.training.data.kept_rows import read_answers
from vllm_lmtp.training.judging.observed_drafts import PlainHeads

VOCABULARY = draft_vocabulary()


def strays(chain: Chain, length: int, seed: int) -> list[int]:
    """A walk that leaves the chain for any token now and then."""
    rng, tokens = random.Random(seed), [seed]
    while len(tokens) < length:
        tokens.append(chain.successor[tokens[-1]] if rng.random() < 0.8 else rng.randrange(VOCAB))
    return tokens


def half(value: float) -> float:
    """As float16 holds it."""
    return float(torch.tensor(value).half())


def counted_ratios(texts: list[list[int]], table: Table) -> dict[int, dict[int, float]]:
    """weight x ratio of each successor kept, by the definition; places are the heads' own ids."""
    pairs = Counter(pair for text in texts for pair in itertools.pairwise(text))
    after: Counter[int] = Counter()
    for (_, x), times in pairs.items():
        after[x] += times
    total, index = sum(after.values()), {x: j for j, x in enumerate(VOCABULARY)}
    seen: dict[int, list[tuple[int, int, int]]] = {}
    for (p, x), times in pairs.items():
        if x in index:
            seen.setdefault(p, []).append((-times, index[x], x))
    return {
        p: {
            j: table.weight * half(math.log1p(-minus * total / (table.pseudo_counts * after[x])))
            for minus, j, x in sorted(row)[: table.size]
        }
        for p, row in seen.items()
    }


def votes_of(chain: Chain) -> list[torch.Tensor]:
    """[V, D] for each head: what the row of a token votes for, exact in float32."""
    embed = embeddings()
    return [embed @ rows_that_vote(embed * VOTE, h)[list(VOCABULARY)].T for h in chain.heads]


def accepted(
    chain: Chain,
    votes: list[torch.Tensor],
    ratios: dict[int, dict[int, float]],
    tokens: tuple[int, ...],
) -> tuple[list[int], int]:
    """Of one answer: drafts whose first n tokens are right, for every n, and drafts."""
    right, drafts = [0] * (len(chain.heads) * chain.stride), 0
    for step in range(len(tokens) - 2):
        previous, drafts = tokens[step + 1], drafts + 1
        for place in range(min(len(right), len(tokens) - step - 2)):
            head, inner = divmod(place, chain.stride)
            row = tokens[max(step - (chain.stride - 1 - inner), 0)]
            scores = votes[head][row].clone()
            for j, ratio in ratios.get(previous, {}).items():
                scores[j] += ratio
            previous = VOCABULARY[int(scores.argmax())]
            if previous != tokens[step + 2 + place]:
                break
            right[place] += 1
    return right, drafts


@pytest.fixture(scope="module")
def chain() -> Chain:
    return make_chain(3, 2)


@pytest.fixture
def heads(tmp_path: Path, chain: Chain) -> HeadsCheckpoint:
    return read_checkpoint(save_chain(chain, tmp_path / "heads", "heads", vocabulary=VOCABULARY), 2)


def test_tables_are_judged_as_the_engine_would(
    tmp_path: Path, chain: Chain, heads: HeadsCheckpoint
) -> None:
    """With every size, weight and pseudo-count, frozen and refreshed, and without a table."""
    texts = [strays(chain, 300, seed) for seed in range(6)]
    lengths = [40, 3, 70, 55]
    folder = keep_rows(
        tmp_path / "data", [strays(chain, n, 90 + n) for n in lengths], [0.0] * len(lengths)
    )
    answers = read_answers(folder, -1)
    wanted = [
        Candidate(NONE),
        *(
            Candidate(TABLE, table)
            for table in tables([1, 2, 900], [0.5, 3.0], [0.1, 5.0], [None, 500], [False, True])
        ),
    ]
    passages = [torch.tensor(text) for text in texts]
    counts = {n: no_pairs(VOCAB).and_those_of(first_tokens(passages, n)) for n in (None, 500)}
    found = sweep(heads, counts, answers, wanted)
    assert [t.candidate for t in found] == wanted
    totals, votes = set(), votes_of(chain)
    for tally in found:
        table = tally.candidate.table
        for number, answer in enumerate(answers):
            known: dict[int, dict[int, float]] = {}
            if table is not None:
                seen = [p.tolist() for p in first_tokens(passages, table.counted)]
                seen += [list(a.tokens) for a in answers[:number]] if table.refreshed else []
                known = counted_ratios(seen, table)
            assert (tally.accepted[number], tally.positions[number]) == accepted(
                chain, votes, known, answer.tokens
            ), (table, number)
        totals.add(tuple(tally.tokens()))
    assert len(totals) > 15  # the combinations do differ


def test_a_perfect_table_in_closed_form(tmp_path: Path, chain: Chain) -> None:
    """Answers that stay on the chain, and a table of it that overrules any head: every token is
    right, so that only the ends of the answers cut a draft."""
    folder = save_chain(chain, tmp_path / "heads", "heads")
    walks = [chain.walk(3, 20), chain.walk(200, 9)]
    answers = read_answers(keep_rows(tmp_path / "data", walks, [0.0, 0.0]), -1)
    counts = {None: no_pairs(VOCAB).and_those_of([torch.tensor(chain.walk(0, 2 * VOCAB))])}
    (tally,) = sweep(
        read_checkpoint(folder, 2), counts, answers, [Candidate(TABLE, Table(1, 1e3, 1.0))]
    )
    assert tally.positions == [19, 8]
    assert tally.accepted == [[19 - n for n in range(6)], [8 - n for n in range(6)]]
    (row,) = summary([tally])["results"]
    assert row["length"] == pytest.approx(1 + (19 * 6 - 15 + 8 * 6 - 15) / 27)


class TinyHeads(PlainHeads):
    """Logits that are given, whatever the rows."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.given, self.target_ids = logits, None

    def logits(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        return self.given[head].clone()


def scorers(size: int) -> list[Scorer]:
    rows = torch.arange(size)
    ids = torch.stack([torch.randperm(size)[:3] for _ in range(size)]).int()
    term = MarkovScorer(torch.randn(size + 1, 4), torch.randn(2, size, 4), rows)
    return [SuccessorTable(ids, torch.randn(size, 3).half(), rows, 1.5), term]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("by", ["product", "length"])
def test_a_wide_beam_finds_the_best_of_all_drafts(kind: int, by: str) -> None:
    torch.manual_seed(2)
    size, steps, schedule = 4, 40, LeapSchedule(2, 2)
    heads, scorer = TinyHeads(torch.randn(2, steps * 2, size)), scorers(size)[kind]
    states, sampled = torch.zeros(steps, 2, 1), torch.randint(0, size, (steps,))
    found = search(heads, scorer, schedule, states, sampled, Beam(size**4, size, by))
    narrow = search(heads, scorer, schedule, states, sampled, Beam(1, 1, by))

    @cache
    def shares(step: int, place: int, before: int) -> list[float]:
        head, inner = divmod(place, 2)
        logits = heads.given[head].view(steps, 2, size)[step : step + 1, inner]
        known = scorer.read(states[:1, -1], torch.tensor([before]))
        return scorer.add(logits.clone(), head, known)[0].softmax(dim=0).tolist()

    differs = 0
    for step in range(steps):
        best: tuple[float, list[int]] = (-math.inf, [])
        for draft in map(list, itertools.product(range(size), repeat=4)):
            before, prefix, worth = int(sampled[step]), 1.0, 0.0
            for place, x in enumerate(draft):
                prefix *= shares(step, place, before)[x]
                worth, before = worth + prefix, x
            best = max(best, (worth if by == "length" else prefix, draft))
        greedy = [int(sampled[step])]
        for place in range(4):
            share = shares(step, place, greedy[-1])
            greedy.append(share.index(max(share)))
        assert found[step].tolist() == best[1]
        assert narrow[step].tolist() == greedy[1:]
        differs += best[1] != greedy[1:]
    assert differs


def test_beams_are_parsed() -> None:
    assert parse_beam("4x8") == parse_beam("4x8:product") == Beam(4, 8)
    assert parse_beam("2x1:length") == Beam(2, 1, "length")
    assert not any(map(parse_beam, ["", "4", "0x2", "2x0", "2x2:best", "x2", "2x2x2"]))


def test_noise_is_told_from_a_winner() -> None:
    """By hand: differences are taken answer by answer."""

    def tally(table: Table, tokens: list[int]) -> Tally:
        return Tally(Candidate(TABLE, table), [[n] for n in tokens], [10] * len(tokens))

    best = tally(Table(64, 1.0, 5.0), [2, 4, 6, 8])
    steady = tally(Table(8, 1.0, 5.0), [1, 3, 5, 7])
    noisy = tally(Table(16, 1.0, 5.0), [8, 1, 6, 4])
    never = tally(Table(8, 1.0, 5.0, refreshed=True), [9, 9, 9, 9])
    found = summary([never, steady, best, noisy])
    assert (found["best"], found["alike"]) == (2, [3])
    rows = found["results"]
    assert [r["length"] for r in rows] == pytest.approx([1.9, 1.4, 1.5, 1.475])
    assert rows[1]["behind"] == pytest.approx(0.1)
    assert rows[1]["behind_se"] == pytest.approx(0)
    lost = [-0.6, 0.3, 0.0, 0.4]
    spread = math.sqrt(sum((x - 0.025) ** 2 for x in lost) / 3 / 4)
    assert rows[3]["behind_se"] == pytest.approx(spread)
    gained = [0.8, 0.6, 0.4, 0.2]
    spread = math.sqrt(sum((x - 0.5) ** 2 for x in gained) / 3 / 4)
    assert (rows[0]["gain"], rows[0]["gain_se"]) == pytest.approx((0.5, spread))
    assert not any("gain" in row for row in rows[1:])


def test_own_scorers_are_compared(tmp_path: Path, chain: Chain) -> None:
    """Heads that have a scorer draft with it, by the rules of the chain that it was made for."""
    scorer = chain_scorers.markov(chain, VOCABULARY, per_head=True)
    folder = scorer.add_to(save_chain(chain, tmp_path / "heads", vocabulary=VOCABULARY))
    checkpoint = read_checkpoint(folder)
    wanted = candidates(checkpoint, [Table(4, 1.0, 5.0)], [Beam(2, 2)])
    assert [(c.kind, c.beam) for c in wanted] == [
        (NONE, None),
        (OWN, None),
        (OWN, Beam(2, 2)),
        (TABLE, None),
        (TABLE, Beam(2, 2)),
    ]
    answers = read_answers(keep_rows(tmp_path / "data", [strays(chain, 60, 1)], [0.0]), -1)
    counts = {None: no_pairs(VOCAB).and_those_of([torch.tensor(strays(chain, 200, 2))])}
    found = sweep(checkpoint, counts, answers, wanted)
    tokens, right = answers[0].tokens, 0
    ours = chain_scorers.scored(chain, scorer)
    for step in range(len(tokens) - 2):
        previous = tokens[step + 1]
        for place in range(min(6, len(tokens) - step - 2)):
            row = tokens[max(step - (1 - place % 2), 0)]
            previous = ours.drafted(place // 2, row, previous)
            if previous != tokens[step + 2 + place]:
                break
            right += 1
    assert found[1].tokens() == [right]


def test_the_command(tmp_path: Path, chain: Chain, capfd: pytest.CaptureFixture[str]) -> None:
    """Held-out answers are drafted and not counted; the page comes from the JSON."""
    heads = save_chain(chain, tmp_path / "heads", "heads", vocabulary=VOCABULARY)
    texts = [strays(chain, 80, seed) for seed in range(8)]
    data = keep_rows(tmp_path / "data", texts, [0.0, 0.7] * 4)
    out = tmp_path / "out"
    words = ("scorer", "sweep", heads, "--dataset", data, "--sizes", "1", "4", "--weights", "1")
    few = ("--pseudo-counts", "5")
    beams = ("--refresh", "--beams", "2x2:length", "--counted", "200", "300")
    succeed(*words, *few, *beams, "--held-out", "2", "--output", out, "--json")
    result = json.loads(capfd.readouterr().out)
    assert result["text"] == {"source": "data", "tokens": 6 * 80}
    held = result["held_out"]
    assert (held["answers"], held["positions"], held["greedy"]) == (2, 2 * 78, True)
    assert len(result["results"]) == 1 + 2 * 2 * 2 * 2
    assert json.loads((out / "sweep.json").read_text()) == result
    page = (out / "sweep.md").read_text()
    assert "Best: K " in page
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    succeed("eval", "render", out / "sweep.json")
    assert capfd.readouterr().out.strip() == page.strip()

    # On answers of another folder all are counted, unless as many are left out as training did.
    succeed(*words, *few, "--held-out", data, "--json")
    assert json.loads(capfd.readouterr().out)["text"]["tokens"] == 8 * 80
    succeed(*words, *few, "--held-out", data, "--leave-out", "2", "--json")
    again = json.loads(capfd.readouterr().out)
    assert again["text"]["tokens"] == 6 * 80
    assert again["held_out"]["answers"] == 4  # the greedy ones
    sampled = keep_rows(tmp_path / "sampled", texts, [0.7, 1.0] * 4)
    succeed(*words, *few, "--held-out", sampled)
    assert "sampled at T = 0.7, 1, so that" in capfd.readouterr().out


def test_bad_input(tmp_path: Path, chain: Chain, capfd: pytest.CaptureFixture[str]) -> None:
    heads = save_chain(chain, tmp_path / "heads", "heads")
    data = keep_rows(tmp_path / "data", [strays(chain, 30, seed) for seed in range(4)], [0.0] * 4)
    words = ("scorer", "sweep", heads, "--dataset", data)
    assert fields(capfd, *words, "--held-out", "4") == {"held_out"}
    assert fields(capfd, *words, "--held-out", "1") == {"answers"}
    assert fields(capfd, *words, "--held-out", tmp_path / "none") == {"dataset"}
    assert fields(capfd, *words, "--held-out", "2", "--counted", "61") == {"--counted"}
    assert fields(capfd, *words, "--held-out", "2", "--counted", "1") == {"text"}
    assert fields(capfd, *words, "--held-out", "2", "--output", heads / "config.json") == {
        "--output"
    }
    (data / "shard-000.rows.safetensors").unlink()
    assert fields(capfd, *words, "--held-out", "2") == {"rows"}


@pytest.mark.parametrize(
    "words",
    [
        ["--text", "T", "--held-out", "2"],
        ["--dataset", "D", "--held-out", "2", "--tokenizer", "M"],
        ["--dataset", "D", "--held-out", "2", "--leave-out", "2"],
        ["--text", "T", "--held-out", "H", "--leave-out", "2"],
        ["--dataset", "D", "--held-out", "2", "--sizes", "0"],
        ["--dataset", "D", "--held-out", "2", "--weights", "nan"],
        ["--dataset", "D", "--held-out", "2", "--weights", "much"],
        ["--dataset", "D", "--held-out", "2", "--beams", "0x4"],
        ["--dataset", "D"],
        ["--held-out", "2"],
    ],
)
def test_words_that_do_not_go_together(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["scorer", "sweep", "CKPT", *words])
    assert stop.value.code == 2
