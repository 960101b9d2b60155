"""Heads on kept rows: what is written is what was trained, and accuracies count what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("datasets")

from safetensors.torch import load_file, save_file  # noqa: E402

from tests.support.training.kept import END, save_kept  # noqa: E402
from vllm_lmtp.errors import LMTPError  # noqa: E402
from vllm_lmtp.formats.checkpoint import read_checkpoint  # noqa: E402
from vllm_lmtp.method.leap import LeapSchedule  # noqa: E402
from vllm_lmtp.training.data.draft_vocab import DraftVocab  # noqa: E402
from vllm_lmtp.training.data.kept_rows import read_answers  # noqa: E402
from vllm_lmtp.training.data.positions import Positions  # noqa: E402
from vllm_lmtp.training.judging.observed_drafts import drafted  # noqa: E402
from vllm_lmtp.training.judging.rows_accuracy import rows_accuracy  # noqa: E402
from vllm_lmtp.training.judging.tokens_a_step import HeldAnswers  # noqa: E402
from vllm_lmtp.training.model.heads import LeapHeads  # noqa: E402
from vllm_lmtp.training.model.heads_folder import write_heads  # noqa: E402
from vllm_lmtp.training.model.heads_on_rows import HeadsOnRows  # noqa: E402
from vllm_lmtp.training.model.markov import MarkovTerm  # noqa: E402
from vllm_lmtp.training.model.read_heads import TrainedHeads, read_trained  # noqa: E402
from vllm_lmtp.training.model.recurrent import RecurrentTerm  # noqa: E402
from vllm_lmtp.training.settings.heads import HeadsRun  # noqa: E402
from vllm_lmtp.training.settings.parse import parse  # noqa: E402
from vllm_lmtp.training.settings.stages import HeadsConfig  # noqa: E402

HIDDEN, VOCAB = 8, 11


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


def test_answers_begin_with_the_last_token_of_their_prompt(tmp_path: Path) -> None:
    texts = [([1, 2], [3, 4, 5], False), ([6], [7], True)]
    answers = read_answers(save_kept(tmp_path / "d", texts, HIDDEN), end_token=99)
    assert [a.tokens for a in answers] == [(2, 3, 4, 5), (6, 7, END)]
    assert [a.prompt for a in answers] == [(1,), ()]


def test_rows_of_another_run_are_refused(tmp_path: Path) -> None:
    folder = save_kept(tmp_path / "d", [([1, 2], [3, 4, 5], False)], HIDDEN)
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
    texts = [([1], [4, 4, 9, 4, 7], False), ([2], [9, 4], False)]
    answers = read_answers(save_kept(tmp_path / "d", texts, HIDDEN), END)
    vocab = DraftVocab(torch.tensor([4, 9]), VOCAB)
    heads = LeapHeads(2, torch.zeros(2, HIDDEN))
    (first, second) = rows_accuracy(TrainedHeads(heads, vocab, None, 1), answers)["heads"]
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
    found = rows_accuracy(TrainedHeads(heads, vocab, term, 1), answers)
    assert found["heads"][0]["top1"] == 0.6
    # After 4: 9 (truths 4, 9 of the first answer); after 9: 4, twice in all; 7 never.
    assert found["places"][0] == {"place": 0, "positions": 5, "top1": 0.6} | {
        f"top{n}": 0.8 for n in (5, 10, 20)
    }


@pytest.mark.parametrize("kind", ["none", "markov", "recurrent"])
def test_tokens_a_step_are_those_of_the_decoder_that_serves(tmp_path: Path, kind: str) -> None:
    """While heads are trained they are judged as the decoder judges the folder they become."""
    seeded = torch.Generator().manual_seed(5)
    texts = [
        ([3], torch.randint(4, 8, (12,), generator=seeded).tolist(), number % 2 == 0)
        for number in range(9)
    ]
    temperatures = [0.0, 1.0, 0.0] * 3
    folder = save_kept(tmp_path / "d", texts, HIDDEN, temperatures)
    file = folder / "shard-000.rows.safetensors"
    tensors = load_file(file)
    tensors["rows"] = torch.randn(tensors["rows"].shape, generator=seeded)
    save_file(tensors, file)
    answers = read_answers(folder, END)
    vocab = DraftVocab(torch.tensor([4, 5, 6, 7, END]), VOCAB)
    heads, term = _heads(vocab), None
    if kind != "none":
        term = MarkovTerm(vocab, 3, 2) if kind == "markov" else RecurrentTerm(vocab, 3, 2, HIDDEN)
        for parameter in term.parameters():
            torch.nn.init.normal_(parameter)
    for parameter in (*heads.parameters(), *(term.parameters() if term else ())):
        parameter.data = parameter.data.bfloat16().float()  # as they are saved
    found = HeldAnswers(answers, LeapSchedule(2, 2)).measure(TrainedHeads(heads, vocab, term, 2))
    assert sorted(found) == [0.0, 1.0]
    config = HeadsConfig(n_head=2, skip_token=2)
    served = tmp_path / "served"
    served.mkdir()
    write_heads(served, heads, config, vocab, term, int8=False, fields={}, term_facts={})
    # The decoder also drafts at the first position, of which no row before is known.
    steps = {t: [0, [0] * 4] for t in (0.0, 1.0)}
    for answer, drafts in zip(answers, drafted(read_checkpoint(served), answers), strict=True):
        total = steps[answer.temperature]
        total[0] += len(drafts.right) - 1
        for right in drafts.right[1:].tolist():
            for place in range(right):
                total[1][place] += 1
    for temperature, (positions, accepted) in steps.items():
        shares = [round(count / positions, 4) for count in accepted]
        assert found[temperature]["positions"] == positions
        assert found[temperature]["accepted"] == shares
        assert found[temperature]["length"] == round(1 + sum(shares), 4)
    assert found[0.0]["length"] > 1.1


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
        ({"loss": {"tv": -1.0}}, "0 or above"),
        ({"loss": {}}, "above 0, or another loss"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(LMTPError, match=words):
        parse(HeadsRun, VALUES | changes, "file.yaml")


def test_a_head_is_the_same_whatever_is_trained_beside_it(tmp_path: Path) -> None:
    """From the same start six adjacent heads become three leap heads of stride 2, bit for bit."""
    texts = [([1], [4, 4, 9, 4, 7, 2, 2, 5, 9], False)] * 3
    answers = read_answers(save_kept(tmp_path / "d", texts, HIDDEN), END)
    seeded = torch.Generator().manual_seed(3)
    states = torch.randn(sum(len(a.tokens) - 1 for a in answers), HIDDEN, generator=seeded)
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
        positions = Positions(answers, 0, skip_token - 1, 6)
        batch = positions.batch(torch.arange(len(positions)))
        # The row of a position stands where a draft's newest one does.
        batch["rows"] = states[batch["rows"][..., 0].long()].roll(skip_token - 1, dims=1)
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
