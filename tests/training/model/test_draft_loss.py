"""The loss of drafts at positions against plain loops, one draft and place at a time."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from vllm_lmtp.method.leap import LeapSchedule  # noqa: E402
from vllm_lmtp.training.data.draft_vocab import DraftVocab  # noqa: E402
from vllm_lmtp.training.data.rows import IGNORE  # noqa: E402
from vllm_lmtp.training.model.draft_loss import DraftLoss  # noqa: E402
from vllm_lmtp.training.model.heads import LeapHeads  # noqa: E402
from vllm_lmtp.training.model.markov import MarkovTerm  # noqa: E402
from vllm_lmtp.training.model.recurrent import RecurrentTerm  # noqa: E402
from vllm_lmtp.training.settings.loss import LossConfig  # noqa: E402

HIDDEN, VOCAB, RANK, N = 5, 9, 3, 11
IDS = [0, 2, 3, 5, 8]


def _silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def _made(
    kind: str, n_head: int, per_head: bool, ids: list[int]
) -> tuple[LeapHeads, MarkovTerm | None]:
    """Heads and a term of random weights, in float64."""
    torch.manual_seed(0)
    vocab = DraftVocab(torch.tensor(ids), VOCAB)
    heads = LeapHeads(n_head, torch.randn(len(ids), HIDDEN)).double()
    number = n_head if per_head else None
    term: MarkovTerm | None = None
    if kind == "markov":
        term = MarkovTerm(vocab, RANK, number).double()
    elif kind == "recurrent":
        term = RecurrentTerm(vocab, RANK, number, HIDDEN).double()
    for parameter in (*heads.parameters(), *(term.parameters() if term else ())):
        torch.nn.init.normal_(parameter)
    return heads, term


def _logits(
    heads: LeapHeads, term: MarkovTerm | None, stride: int, rows: torch.Tensor, tokens: list[int]
) -> list[tuple[int, torch.Tensor]]:
    """Of one position, the logits of each place that learns, by the definition: the place at offset
    o is filled by head ceil((o - 1) / k) read k ceil((o - 1) / k) + 1 - o positions back."""
    found = []
    state = term.start @ rows[stride - 1] if isinstance(term, RecurrentTerm) else None
    for place in range(len(heads) * stride):
        offset = place + 2
        number = -(-(offset - 1) // stride)
        lag = stride * number + 1 - offset
        x = rows[stride - 1 - lag]
        block = heads[number - 1].resblock[0].l_proj
        logits = heads[number - 1].lm_head.weight @ (x + _silu(block.weight @ x + block.bias))
        if term is not None:
            ids = term.known.tolist()
            state_of_token = term.embed[ids[tokens[place]]]
            if state is None:
                read = state_of_token
            else:
                joined = torch.cat([state, state_of_token])
                state = read = state_of_token + _silu(term.carry @ joined)
            output = term.output if term.output.dim() == 2 else term.output[number - 1]
            logits = logits + output @ read
        elif lag:
            continue
        found.append((place, logits))
    return found


def _row_loss(
    logits: torch.Tensor, taught: torch.Tensor, label: int, ids: list[int], config: LossConfig
) -> torch.Tensor:
    log_q, log_p = logits.log_softmax(0), taught.log_softmax(0)
    loss = config.kl_div * (log_p.exp() * (log_p - log_q)).sum()
    return loss - config.ce * log_q[ids.index(label)] if label in ids else loss


@pytest.mark.parametrize(("n_head", "stride"), [(1, 1), (3, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize(
    ("kind", "per_head"),
    [("none", False), ("markov", False), ("recurrent", False), ("recurrent", True)],
)
@pytest.mark.parametrize("ids", [IDS, list(range(VOCAB))])
@pytest.mark.parametrize("config", [LossConfig(ce=1.0), LossConfig(ce=0.25, kl_div=0.75)])
def test_loss_and_gradients_equal_the_formula(
    n_head: int, stride: int, kind: str, per_head: bool, ids: list[int], config: LossConfig
) -> None:
    heads, term = _made(kind, n_head, per_head, ids)
    num_places, decay = n_head * stride, 1.0 if kind == "none" else 0.7
    rows = torch.randn(N, stride + num_places, HIDDEN, dtype=torch.float64)
    tokens = torch.randint(VOCAB, (N, num_places + 1))
    labels = tokens[:, 1:].clone()
    labels[2, 1:], labels[4, 2:] = IGNORE, IGNORE
    output = torch.randn(len(ids), HIDDEN).double()

    losses: dict[int, list[torch.Tensor]] = {}
    for i in range(N):
        for place, logits in _logits(heads, term, stride, rows[i], tokens[i].tolist()):
            found = losses.setdefault(place, [])
            label = int(labels[i, place])
            # The first positions teach a place further on.
            if i >= max(1, round(N * decay**place)) or label == IGNORE:
                continue
            if config.soft or label in ids:
                taught = output @ rows[i, stride + place]
                found.append(_row_loss(logits, taught, label, ids, config))
    zero = torch.zeros((), dtype=torch.float64)
    parts = [torch.stack(found).mean() if found else zero for found in losses.values()]
    expected = sum(decay**place * part for place, part in zip(losses, parts, strict=True))
    parameters = [*heads.parameters(), *(term.parameters() if term else ())]
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)

    schedule, vocab = LeapSchedule(n_head, stride), DraftVocab(torch.tensor(ids), VOCAB)
    of_drafts = DraftLoss(schedule, vocab, config, decay, 3 * len(ids))
    assert of_drafts.rows_after == (num_places if config.soft else 0)
    loss, of_places = of_drafts(heads, term, rows, tokens, labels, output if config.soft else None)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(of_places, torch.stack(parts).detach())
    for parameter, gradient in zip(parameters, wanted, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("kind", ["markov", "recurrent"])
def test_a_share_of_the_positions_teaches_heads_alone(kind: str) -> None:
    heads, term = _made(kind, 3, False, IDS)
    schedule, vocab = LeapSchedule(3, 2), DraftVocab(torch.tensor(IDS), VOCAB)
    config = LossConfig(ce=0.25, kl_div=0.75)
    rows = torch.randn(N, 2 + 6, HIDDEN, dtype=torch.float64)
    tokens = torch.randint(VOCAB, (N, 7))
    output = torch.randn(len(IDS), HIDDEN).double()
    given = (rows, tokens, tokens[:, 1:])

    def loss(term: MarkovTerm | None, alone: float, count: int) -> torch.Tensor:
        made = DraftLoss(schedule, vocab, config, 0.7, 1000, alone=alone)
        return made(heads, term, *(values[:count] for values in given), output)[0]

    assert term is not None
    expected = loss(term, 0.0, N) + 0.3 * loss(None, 0.0, round(0.3 * N))
    assert torch.allclose(loss(term, 0.3, N), expected)
    assert loss(None, 0.3, N) == loss(None, 0.0, N)
