"""Heads on kept rows: what is written is what was trained, and accuracies count what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("datasets")

from safetensors.torch import save_file  # noqa: E402

from vllm_lmtp.errors import LMTPError  # noqa: E402
from vllm_lmtp.formats.checkpoint import read_checkpoint  # noqa: E402
from vllm_lmtp.training.data.draft_vocab import DraftVocab  # noqa: E402
from vllm_lmtp.training.data.kept_rows import collate, read_answers  # noqa: E402
from vllm_lmtp.training.data.rows import IGNORE  # noqa: E402
from vllm_lmtp.training.judging.rows_accuracy import rows_accuracy  # noqa: E402
from vllm_lmtp.training.model.heads import LeapHeads  # noqa: E402
from vllm_lmtp.training.model.heads_folder import write_heads  # noqa: E402
from vllm_lmtp.training.model.markov import MarkovTerm  # noqa: E402
from vllm_lmtp.training.model.read_heads import TrainedHeads, read_trained  # noqa: E402
from vllm_lmtp.training.runs.heads import HeadsOnRows  # noqa: E402
from vllm_lmtp.training.settings.heads import HeadsRun  # noqa: E402
from vllm_lmtp.training.settings.parse import parse  # noqa: E402
from vllm_lmtp.training.settings.stages import HeadsConfig  # noqa: E402

HIDDEN, VOCAB, END = 8, 11, 10


def _heads(vocab: DraftVocab, n_head: int = 2) -> LeapHeads:
    torch.manual_seed(0)
    heads = LeapHeads(n_head, torch.randn(len(vocab), HIDDEN))
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return heads


def _term(vocab: DraftVocab, n_head: int | None) -> MarkovTerm:
    term = MarkovTerm(vocab, 3, n_head)
    torch.nn.init.normal_(term.output)
    return term


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("n_head", [None, 2])
@pytest.mark.parametrize("ids", [list(range(VOCAB)), [1, 4, 9]])
def test_what_is_written_is_read_back(
    tmp_path: Path, int8: bool, n_head: int | None, ids: list[int]
) -> None:
    vocab = DraftVocab(torch.tensor(ids), VOCAB)
    heads, term = _heads(vocab), _term(vocab, n_head)
    config = HeadsConfig(n_head=2, skip_token=3)
    write_heads(
        tmp_path, heads, config, vocab, term, int8=int8, fields={"a": 1}, term_facts={"steps": 5}
    )
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["scorer"] == {"kind": "markov", "rank": 3, "steps": 5}
    assert raw.get("draft_vocab_size") == (None if len(ids) == VOCAB else len(ids))
    checkpoint = read_checkpoint(tmp_path)
    assert (checkpoint.schedule.n_heads, checkpoint.schedule.stride) == (2, 3)
    found = read_trained(tmp_path)
    assert found.vocab.target_ids.tolist() == ids
    assert found.stride == 3
    assert found.term is not None
    # int8 is within half a step of a row's largest value, bfloat16 within 2**-8.
    tolerance = 0.02 if int8 else 0.005
    for i in range(2):
        torch.testing.assert_close(
            found.heads[i].lm_head.weight, heads[i].lm_head.weight, atol=tolerance, rtol=tolerance
        )
        block = heads[i].resblock[0].l_proj.weight.bfloat16().float()
        assert torch.equal(found.heads[i].resblock[0].l_proj.weight, block)
    torch.testing.assert_close(found.term.output, term.output, atol=tolerance, rtol=tolerance)


def _dataset(folder: Path, texts: list[tuple[list[int], list[int], bool]]) -> Path:
    """A distilled data set: prompt, answer, and whether it ended; row values count positions."""
    from datasets import Dataset

    records = [
        {
            "tokens": [*prompt, *answer],
            "prompt_tokens": len(prompt),
            "ended": ended,
            "shard": "shard-000",
            "number": number,
            "source": "s",
            "temperature": 0.5,
            "end_token": END if ended else None,
        }
        for number, (prompt, answer, ended) in enumerate(texts)
    ]
    Dataset.from_list(records).save_to_disk(folder)
    lengths = [len(answer) + ended for _, answer, ended in texts]
    rows = torch.arange(sum(lengths), dtype=torch.float32)[:, None].expand(-1, HIDDEN)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    save_file({"rows": rows.contiguous(), "bounds": bounds}, folder / "shard-000.rows.safetensors")
    return folder


def test_rows_meet_the_tokens_at_their_positions(tmp_path: Path) -> None:
    folder = _dataset(tmp_path / "d", [([1, 2], [3, 4, 5], False), ([6], [7], True)])
    answers = read_answers(folder, end_token=99)
    assert [a.tokens for a in answers] == [(2, 3, 4, 5), (6, 7, END)]
    batch = collate(answers)
    assert batch["hidden"][:, :, 0].tolist() == [[0, 1, 2], [3, 4, 0]]
    assert batch["labels"].tolist() == [[IGNORE, 3, 4, 5], [IGNORE, 7, END, IGNORE]]
    assert batch["tokens"].tolist() == [[2, 3, 4, 5], [6, 7, END, 0]]


def test_rows_of_another_run_are_refused(tmp_path: Path) -> None:
    folder = _dataset(tmp_path / "d", [([1, 2], [3, 4, 5], False)])
    save_file(
        {"rows": torch.zeros(2, HIDDEN), "bounds": torch.tensor([0, 2])},
        folder / "shard-000.rows.safetensors",
    )
    with pytest.raises(LMTPError, match="2 rows; expected 3, one for each token"):
        read_answers(folder, END)
    (folder / "shard-000.rows.safetensors").unlink()
    with pytest.raises(LMTPError, match="keep_rows: true"):
        read_answers(folder, END)


def test_accuracies_count_every_position_and_only_what_can_be_named(tmp_path: Path) -> None:
    """Heads that always name draft token 0, over answers of which its share is known."""
    folder = _dataset(tmp_path / "d", [([1], [4, 4, 9, 4, 7], False), ([2], [9, 4], False)])
    answers = read_answers(folder, END)
    vocab = DraftVocab(torch.tensor([4, 9]), VOCAB)
    heads = LeapHeads(2, torch.zeros(2, HIDDEN))
    (first, second) = rows_accuracy(TrainedHeads(heads, vocab, None, 1), answers)
    # Head 0 looks two ahead: 4 9 4 7 of the first answer and 4 of the second; a tie names 4.
    assert (first["offset"], first["positions"], first["top1"]) == (2, 5, 0.6)
    # 7 is outside the draft vocabulary: it counts and is never found.
    assert first["top5"] == 0.8
    # Head 1 looks three ahead: 9 4 7; the second answer is too short.
    assert (second["offset"], second["positions"]) == (3, 3)
    assert second["top1"] == pytest.approx(1 / 3, abs=1e-4)
    # A term that knows the successor of the true preceding token, 9 after 4, finds both.
    term = MarkovTerm(vocab, 2, None)
    with torch.no_grad():
        term.embed.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
        term.output.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    (first, _) = rows_accuracy(TrainedHeads(heads, vocab, term, 1), answers)
    assert first["top1"] == 0.6
    # After 4: 9 (truths 4, 9 of the first answer); after 9: 4, twice in all; 7 never.
    assert first["markov_top1"] == 0.6


VALUES = {
    "run": "heads",
    "model_name": "m",
    "output": "o",
    "seed": 1,
    "threads": 1,
    "held_out": 1,
    "dataset": "d",
    "heads": {"n_head": 1, "skip_token": 2},
    "optim": {"lr": 0.1, "warmup": 0.1, "steps": 1, "batch_rows": 1, "save_every": 1},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": "most"}, "all or blocks or term"),
        ({"train": "term"}, "init names heads"),
        ({"train": "term", "init": "h"}, "a rank"),
        ({"init": "h", "draft_vocab": {"size": 9}}, "its heads have theirs"),
        ({"draft_vocab": {"size": 9, "coverage": 0.5}}, "exactly one of both"),
        ({"draft_vocab": {"coverage": 1.5}}, "above 0 and at most 1"),
        ({"markov": {"rank": 0}}, "at least 1"),
        ({"markov": {"rank": 4, "lr_scale": 0.0}}, "above 0"),
        ({"recurrent": {"rank": 4, "lr_scale": 0.0}}, "above 0"),
        ({"recurrent": {"rank": 4, "decay": 0.0}}, "above 0 and at most 1"),
        ({"recurrent": {"rank": 4}, "markov": {"rank": 4}}, "none beside markov"),
        ({"learn": "better"}, "written or best"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(LMTPError, match=words):
        parse(HeadsRun, VALUES | changes, "file.yaml")


def test_a_head_is_the_same_whatever_is_trained_beside_it(tmp_path: Path) -> None:
    """From the same start six adjacent heads become three leap heads of stride 2, bit for bit."""
    folder = _dataset(tmp_path / "d", [([1], [4, 4, 9, 4, 7, 2, 2, 5, 9], False)] * 3)
    batch = collate(read_answers(folder, END))
    batch["hidden"] = torch.randn(batch["hidden"].shape, generator=torch.Generator().manual_seed(3))
    vocab = DraftVocab(torch.arange(VOCAB), VOCAB)
    matrix = torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(4))

    def trained(n_head: int, skip_token: int) -> LeapHeads:
        heads = LeapHeads(n_head, matrix)
        for i in range(n_head):
            torch.nn.init.zeros_(heads[i].resblock[0].l_proj.bias)
        changes = {"heads": {"n_head": n_head, "skip_token": skip_token}}
        run = parse(HeadsRun, VALUES | changes, "file.yaml")
        model = HeadsOnRows(TrainedHeads(heads, vocab, None, skip_token), run)
        optimizer = torch.optim.AdamW(model.parameter_groups(0.05, 1.0))
        for _ in range(4):
            optimizer.zero_grad()
            model(**batch)["loss"].backward()
            optimizer.step()
        return heads

    adjacent, leap = trained(6, 1), trained(3, 2)
    for i in range(3):
        for name, value in leap[i].state_dict().items():
            assert torch.equal(value, adjacent[2 * i + 1].state_dict()[name])
            assert name != "lm_head.weight" or not torch.equal(value, matrix)
