"""The recurrent term: its loss against plain loops, and a round trip through a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from vllm_lmtp.training.data.draft_vocab import DraftVocab  # noqa: E402
from vllm_lmtp.training.data.rows import IGNORE  # noqa: E402
from vllm_lmtp.training.model.heads import LeapHeads  # noqa: E402
from vllm_lmtp.training.model.heads_folder import write_heads  # noqa: E402
from vllm_lmtp.training.model.loss import Extras, stage1_loss  # noqa: E402
from vllm_lmtp.training.model.read_heads import read_trained  # noqa: E402
from vllm_lmtp.training.model.recurrent import RecurrentTerm  # noqa: E402
from vllm_lmtp.training.runs.heads import best_labels  # noqa: E402
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


def _silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def _place_by_place(
    heads: LeapHeads,
    term: RecurrentTerm,
    stride: int,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    tokens: torch.Tensor,
    ids: list[int],
) -> list[torch.Tensor]:
    """The mean cross-entropy of every place, one draft at a time, by the definition: the place at
    offset o is filled by head ceil((o - 1) / k) read k ceil((o - 1) / k) + 1 - o positions back."""
    losses: list[list[torch.Tensor]] = [[] for _ in range(len(heads) * stride)]
    for b in range(len(hidden)):
        for newest in range(stride - 1, hidden.shape[1]):
            state = term.start @ hidden[b, newest]
            for place, found in enumerate(losses):
                offset = place + 2
                if newest + offset >= labels.shape[1]:
                    break
                previous = int(tokens[b, newest + offset - 1])
                row = ids.index(previous) if previous in ids else len(ids)
                read = term.embed[row]
                state = read + _silu(term.carry @ torch.cat([state, read]))
                number = -(-(offset - 1) // stride)
                x = hidden[b, newest - (stride * number + 1 - offset)]
                head = heads[number - 1]
                block = head.resblock[0].l_proj
                trunk = x + _silu(block.weight @ x + block.bias)
                output = term.output if term.output.dim() == 2 else term.output[number - 1]
                logits = head.lm_head.weight @ trunk + output @ state
                label = int(labels[b, newest + offset])
                if label in ids:
                    found.append(torch.logsumexp(logits, 0) - logits[ids.index(label)])
    return [torch.stack(found).mean() if found else hidden.new_zeros(()) for found in losses]


@pytest.mark.parametrize(("n_head", "stride"), [(1, 1), (3, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("ids", [IDS, list(range(VOCAB))])
def test_loss_and_gradients_equal_the_formula(
    n_head: int, stride: int, per_head: bool, ids: list[int]
) -> None:
    heads, term = _made(n_head, per_head, ids)
    hidden = torch.randn(2, 9, HIDDEN, dtype=torch.float64)
    tokens = torch.randint(VOCAB, (2, 10))
    labels = tokens.clone()
    labels[:, 0] = IGNORE
    labels[1, 4:] = IGNORE
    parts = _place_by_place(heads, term, stride, hidden, labels, tokens, ids)
    expected = sum(0.5**place * part for place, part in enumerate(parts))
    parameters = [*heads.parameters(), *term.parameters()]
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)

    extras = Extras(DraftVocab(torch.tensor(ids), VOCAB), term, tokens, 0.5)
    loss, of_places = stage1_loss(heads, hidden, labels, stride, 3 * len(ids), extras)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(of_places, torch.stack(parts).detach())
    for parameter, gradient in zip(parameters, wanted, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(parameter.grad, gradient)


def test_an_untrained_term_changes_nothing() -> None:
    vocab = DraftVocab(torch.arange(VOCAB), VOCAB)
    term = RecurrentTerm(vocab, RANK, None, HIDDEN)
    state = term.read(term.begin(torch.randn(4, HIDDEN)), torch.arange(4))
    assert not (state @ term.output_of(0).T).any()
    # What it starts from a Markov term with is that term.
    assert torch.equal(state, term.embedded(torch.arange(4)))


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


def test_best_labels_are_those_of_the_row_before_them() -> None:
    matrix = torch.eye(4)
    hidden = torch.tensor([[[0.0, 3, 1, 0], [5, 0, 0, 1], [0, 0, 0, 2]]])
    labels = torch.tensor([[IGNORE, 2, IGNORE, 1]])
    for budget in (1, 8, 100):
        assert best_labels(hidden, labels, matrix, budget).tolist() == [[IGNORE, 1, IGNORE, 3]]
