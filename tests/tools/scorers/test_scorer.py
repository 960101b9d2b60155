"""Successor tables: counted as a plain loop counts, and written into a copy of the heads."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.support.chain.target import make_chain, save_chain
from tests.support.random_models import EMBEDDED, config_of, fields, succeed, tensors_of
from tests.support.unscored import without_scorer
from vllm_lmtp.cli import main
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.tools.scorers import successors
from vllm_lmtp.tools.scorers.successors import count_successors
from vllm_lmtp.worker.scorer_weights import build_scorer

VOCAB = 23
TEXT = "Once upon a time, there was a little girl. She had a little dog. The dog was big. " * 20


def passages(seed: int, count: int = 40) -> list[torch.Tensor]:
    """Passages of 0 to 60 tokens in which some pairs are frequent and many are equally so."""
    rng = random.Random(seed)
    return [
        torch.tensor(
            [min(rng.randrange(VOCAB), rng.randrange(VOCAB)) for _ in range(length)]
        ).long()
        for length in [0, 1, 2, *(rng.randrange(60) for _ in range(count))]
    ]


def brute_force(
    texts: list[torch.Tensor], drafted: list[int], size: int, pseudo: float
) -> list[list[tuple[int, float]]]:
    """For each token its successors (id of the heads' vocabulary, ratio), by the definition: the
    ratio of p(x | p) to p(x), less that of a token never seen."""
    pairs: Counter[tuple[int, int]] = Counter()
    for text in texts:
        tokens = text.tolist()
        pairs.update(itertools.pairwise(tokens))
    total = sum(pairs.values())
    after: Counter[int] = Counter()
    before: Counter[int] = Counter()
    for (p, x), count in pairs.items():
        after[x] += count
        before[p] += count
    table = []
    for p in range(VOCAB):
        found = [(-pairs[p, x], j, x) for j, x in enumerate(drafted) if pairs[p, x]]
        row = []
        for minus, j, x in sorted(found)[:size]:
            unigram = after[x] / total
            conditional = (-minus + pseudo * unigram) / (before[p] + pseudo)
            never = pseudo / (before[p] + pseudo)
            row.append((j, math.log(conditional / unigram) - math.log(never)))
        table.append(row)
    return table


@pytest.mark.parametrize("drafted", [None, [0, 1, 2, 5, 7, 11, 12, 20]])
@pytest.mark.parametrize("size", [1, 4, VOCAB + 5])
@pytest.mark.parametrize("block", [1, 100, 2**22])
def test_counted_as_a_loop_counts(
    drafted: list[int] | None, size: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(successors, "BLOCK", block)
    texts = passages(size)
    ids = None if drafted is None else torch.tensor(drafted)
    found = count_successors(iter(texts), VOCAB, ids, size, 5.0)
    wanted = brute_force(texts, drafted or list(range(VOCAB)), size, 5.0)
    assert found.pairs == sum(max(len(text) - 1, 0) for text in texts)
    assert found.ids.shape == found.ratios.shape == (VOCAB, size)
    for row, (token_ids, ratios) in enumerate(zip(found.ids, found.ratios, strict=True)):
        kept = [j for j in token_ids.tolist() if j >= 0]
        assert kept == [j for j, _ in wanted[row]]
        assert token_ids[len(kept) :].tolist() == [-1] * (size - len(kept))
        expected = [ratio for _, ratio in wanted[row]]
        assert ratios[: len(kept)].tolist() == pytest.approx(expected, rel=2e-3)


def test_nothing_to_count() -> None:
    found = count_successors(iter([torch.tensor([3])]), VOCAB, None, 4, 5.0)
    assert found.pairs == 0
    assert (found.ids == -1).all()


def test_build_from_a_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "story.txt").write_text(TEXT)
    out = tmp_path / "out"
    words = ("scorer", "build", EMBEDDED, "--text", tmp_path / "story.txt", "--output", out)
    succeed(*words, "--size", "8", "--weight", "0.5", "--json")
    report = json.loads(capfd.readouterr().out)
    assert report["size"] == 8
    assert report["pairs"] > 100
    checkpoint = read_checkpoint(out)
    assert checkpoint.scorer is not None
    assert (checkpoint.scorer.kind, checkpoint.scorer.weight) == ("table", 0.5)
    assert build_scorer(checkpoint, 0, 1024, 1024, torch.float32) is not None
    # The scorer that was there is gone; all else is as it was.
    before = {n: t for n, t in tensors_of(EMBEDDED).items() if not n.startswith("scorer.")}
    after = tensors_of(out)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert set(after) - set(before) == {"scorer.table.ids", "scorer.table.ratios"}
    scorer = config_of(out).pop("scorer")
    assert (scorer["source"], scorer["pseudo_counts"]) == ("story.txt", 5.0)
    # Tools carry it along, and a second build replaces it.
    succeed("convert", "--to", "heads", out, tmp_path / "heads")
    assert config_of(tmp_path / "heads")["scorer"] == scorer
    assert torch.equal(
        tensors_of(tmp_path / "heads")["scorer.table.ids"], after["scorer.table.ids"]
    )
    succeed("export", out, tmp_path / "plain")
    assert not any(name.startswith("scorer") for name in tensors_of(tmp_path / "plain"))
    assert "scorer" not in config_of(tmp_path / "plain")
    again = tmp_path / "again"
    text = ("--text", tmp_path / "story.txt", "--tokenizer", EMBEDDED)
    succeed("scorer", "build", tmp_path / "heads", *text, "--output", again)
    assert tensors_of(again)["scorer.table.ids"].shape == (1024, 64)
    succeed("inspect", out)
    assert "table" in capfd.readouterr().out


def test_build_from_answers(tmp_path: Path) -> None:
    from datasets import Dataset

    records = [
        {"tokens": [9, 9, 9, 4, 5, 6], "prompt_tokens": 4},
        {"tokens": [7, 4, 5], "prompt_tokens": 1},
    ]
    Dataset.from_list(records).save_to_disk(tmp_path / "answers")
    out = tmp_path / "out"
    succeed("scorer", "build", EMBEDDED, "--dataset", tmp_path / "answers", "--output", out)
    ids = tensors_of(out)["scorer.table.ids"]
    assert ids[[4, 5, 7], 0].tolist() == [5, 6, 4]
    assert (ids[9] == -1).all()  # the prompt's own transitions are not the model's


def test_bad_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, text, none = tmp_path / "out", tmp_path / "text", tmp_path / "none"
    text.write_text("word")
    build = ("scorer", "build", EMBEDDED, "--output", out)
    assert fields(capfd, *build, "--text", none) == {"text"}
    assert fields(capfd, *build, "--text", text, "--tokenizer", none) == {"path"}
    assert fields(capfd, *build, "--dataset", none) == {"--dataset"}
    tmp_path.joinpath("empty").write_text("")
    assert fields(capfd, *build, "--text", tmp_path / "empty") == {"text"}
    from datasets import Dataset

    Dataset.from_list([{"tokens": [3, 5000]}]).save_to_disk(tmp_path / "foreign")
    assert fields(capfd, *build, "--dataset", tmp_path / "foreign") == {"tokens"}
    Dataset.from_list([{"words": "a"}]).save_to_disk(tmp_path / "words")
    assert fields(capfd, *build, "--dataset", tmp_path / "words") == {"--dataset"}
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [["--weight", "0"], ["--pseudo-counts", "nan"], ["--size", "0"], ["--dataset", "x"]],
)
def test_words_that_do_not_go_together(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        succeed("scorer", "build", "IN", "--text", "T", "--output", tmp_path / "out", *words)
    assert stop.value.code == 2


def test_a_scorer_joins_the_heads_it_was_made_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every other tensor stays as it is, and a second scorer replaces the first."""
    heads, donor, out = tmp_path / "heads", tmp_path / "donor", tmp_path / "out"
    plain = without_scorer(EMBEDDED, tmp_path / "plain")
    succeed("convert", "--to", "heads", plain, heads)
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a cat. The cat was big. " * 9)
    succeed("scorer", "build", heads, "--text", text, "--tokenizer", EMBEDDED, "--output", donor)
    succeed("scorer", "add", plain, "--from", donor, "--output", out)
    before, scorer, after = tensors_of(plain), tensors_of(donor), tensors_of(out)
    for name, value in after.items():
        assert torch.equal(value, (scorer if name.startswith("scorer.") else before)[name])
    assert {n for n in after if n.startswith("scorer.")} == {
        n for n in scorer if n.startswith("scorer.")
    }
    assert config_of(out)["scorer"] == config_of(donor)["scorer"]
    assert read_checkpoint(out).stage1

    others = save_chain(make_chain(3, 2), tmp_path / "others", "heads")
    for target, giver, words in (
        (plain, heads, "heads without a scorer"),
        (others, donor, "expected one of heads like those of"),
    ):
        add = ["scorer", "add", target, "--from", giver, "--output", tmp_path / "refused"]
        assert main([str(word) for word in add]) == 2
        assert words in capfd.readouterr().err
    assert not (tmp_path / "refused").exists()
