"""The recurrent term: what it starts as, and a round trip through a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from vllm_lmtp.training.data.draft_vocab import DraftVocab  # noqa: E402
from vllm_lmtp.training.model.heads import LeapHeads  # noqa: E402
from vllm_lmtp.training.model.heads_folder import write_heads  # noqa: E402
from vllm_lmtp.training.model.markov import MarkovTerm  # noqa: E402
from vllm_lmtp.training.model.read_heads import read_trained  # noqa: E402
from vllm_lmtp.training.model.recurrent import RecurrentTerm  # noqa: E402
from vllm_lmtp.training.settings.stages import HeadsConfig  # noqa: E402

HIDDEN, VOCAB, RANK = 5, 9, 3
IDS = [0, 2, 3, 5, 8]


def _made(n_head: int, per_head: bool, ids: list[int]) -> tuple[LeapHeads, RecurrentTerm]:
    """Heads and a term of random weights, in float64."""
    torch.manual_seed(0)
    vocab = DraftVocab(torch.tensor(ids), VOCAB)
    heads = LeapHeads(n_head, torch.randn(len(ids), HIDDEN)).double()
    term = RecurrentTerm(vocab, RANK, n_head if per_head else None, HIDDEN).double()
    for parameter in (*heads.parameters(), *term.parameters()):
        torch.nn.init.normal_(parameter)
    return heads, term


def test_an_untrained_term_changes_nothing() -> None:
    vocab = DraftVocab(torch.arange(VOCAB), VOCAB)
    term = RecurrentTerm(vocab, RANK, None, HIDDEN)
    state = term.read(term.begin(torch.randn(4, HIDDEN)), torch.arange(4))
    assert not (state @ term.output_of(0).T).any()
    # What it starts from a Markov term with is that term.
    assert torch.equal(state, term.embedded(torch.arange(4)))


@pytest.mark.parametrize("rank", [RANK, RANK - 1])
@pytest.mark.parametrize("n_head", [None, 2])
def test_it_begins_as_a_markov_term_of_no_higher_rank(rank: int, n_head: int | None) -> None:
    vocab = DraftVocab(torch.tensor(IDS), VOCAB)
    known, term = MarkovTerm(vocab, rank, n_head), RecurrentTerm(vocab, RANK, n_head, HIDDEN)
    torch.nn.init.normal_(known.output)
    torch.nn.init.normal_(term.output)
    term.grow_from(known)
    previous = torch.arange(VOCAB)
    state = term.read(term.begin(torch.randn(VOCAB, HIDDEN)), previous)
    for head in range(2):
        expected = known.embedded(previous) @ known.output_of(head).T
        torch.testing.assert_close(state @ term.output_of(head).T, expected)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("per_head", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, int8: bool, per_head: bool) -> None:
    heads, term = _made(2, per_head, IDS)
    config = HeadsConfig(n_head=2, skip_token=3)
    vocab = DraftVocab(torch.tensor(IDS), VOCAB)
    facts = {"steps": 5}
    write_heads(tmp_path, heads, config, vocab, term, int8=int8, fields={}, term_facts=facts)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["scorer"] == {"kind": "recurrent", "rank": RANK, "steps": 5}
    found = read_trained(tmp_path).term
    assert isinstance(found, RecurrentTerm)
    for name in ("start", "carry"):  # bfloat16 whatever the rest is stored as
        assert torch.equal(getattr(found, name), getattr(term, name).bfloat16().float())
    # int8 is within half a step of a row's largest value, bfloat16 within 2**-8.
    for name in ("embed", "output"):
        value = getattr(term, name).float()
        limit = value.abs().amax(-1, keepdim=True) * (0.51 / 127 if int8 else 2**-8)
        assert ((getattr(found, name) - value).abs() <= limit + 1e-6).all()
