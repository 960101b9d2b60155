"""The chunked losses equal the plain ones, in value and in every gradient."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import cross_entropy as plain  # noqa: E402

from vllm_lmtp.training.model.chunked_loss import NO_TARGET, Teacher, chunked_loss  # noqa: E402
from vllm_lmtp.training.settings.loss import LossConfig  # noqa: E402

VOCAB, HIDDEN = 13, 6


def _inputs(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(rows, HIDDEN, dtype=dtype, requires_grad=True)
    matrix = torch.randn(VOCAB, HIDDEN, dtype=dtype, requires_grad=True)
    return x, matrix, torch.randint(VOCAB, (rows,))


@pytest.mark.parametrize("rows", [1, 7, 8])
@pytest.mark.parametrize("budget", [1, 3 * VOCAB, 10**6])
def test_equals_the_formula_in_float64(rows: int, budget: int) -> None:
    x, matrix, targets = _inputs(rows, torch.float64)
    expected = plain(x @ matrix.T, targets, reduction="sum")
    wanted = torch.autograd.grad(expected * 3, [x, matrix])
    loss = chunked_loss([(x, matrix)], targets, budget)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss * 3, [x, matrix]), wanted)


def test_a_frozen_matrix_gets_no_gradient_and_rows_still_do() -> None:
    x, matrix, targets = _inputs(4, torch.float64)
    matrix = matrix.detach()
    (gradient,) = torch.autograd.grad(chunked_loss([(x, matrix)], targets, VOCAB), [x])
    (wanted,) = torch.autograd.grad(plain(x @ matrix.T, targets, reduction="sum"), [x])
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("frozen", [[], [1], [0, 1], [2]])
def test_a_sum_of_products_equals_the_formula(frozen: list[int]) -> None:
    torch.manual_seed(1)
    x, matrix, targets = _inputs(7, torch.float64)
    y = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    term = torch.randn(VOCAB, 2, dtype=torch.float64, requires_grad=True)
    parts = [x, matrix, y, term]
    for i in frozen:
        parts[i].requires_grad_(False)
    trained = [part for part in parts if part.requires_grad]
    expected = plain(x @ matrix.T + y @ term.T, targets, reduction="sum")
    loss = chunked_loss([(x, matrix), (y, term)], targets, 3 * VOCAB)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(value, trained) for value in (loss, expected))
    torch.testing.assert_close(found, wanted)


def test_no_rows_give_zero_and_gradients_of_zero() -> None:
    x, matrix, targets = _inputs(0, torch.float32)
    loss = chunked_loss([(x, matrix)], targets, 99)
    loss.backward()
    assert loss == 0
    assert not matrix.grad.any()


def test_under_autocast_products_are_bfloat16_and_the_softmax_is_not() -> None:
    x, matrix, targets = _inputs(64, torch.float32)
    expected = plain(x.bfloat16() @ matrix.bfloat16().T, targets, reduction="sum")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = chunked_loss([(x, matrix)], targets, 5 * VOCAB)
    loss.backward()
    assert loss.dtype is torch.float32
    assert matrix.grad.dtype is torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=2e-2)
    exact = torch.autograd.grad(plain(x @ matrix.T, targets, reduction="sum"), [matrix])[0]
    assert (matrix.grad - exact).norm() < 0.02 * exact.norm()


def _by_autograd(
    logits: torch.Tensor, taught: torch.Tensor, target: int, config: LossConfig
) -> torch.Tensor:
    """The loss of one row by its definition (speculators' names), the blend's weight held fast."""
    q, p = logits.softmax(0), taught.softmax(0)
    kl = sum(p[v] * (p[v].log() - q[v].log()) for v in range(VOCAB))
    tv = 1 - sum(min(p[v], q[v]) for v in range(VOCAB))
    blend = torch.exp(-3 * (1 - tv)).detach()
    loss = config.kl_div * kl + config.tv * tv
    loss = loss + config.lk_hybrid * (blend * kl + (1 - blend) * tv)
    return loss - config.ce * q[target].log() if target != NO_TARGET else loss


@pytest.mark.parametrize(
    "config",
    [
        LossConfig(kl_div=1.0),
        LossConfig(tv=1.0),
        LossConfig(lk_hybrid=1.0),
        LossConfig(ce=0.1, kl_div=0.9),
        LossConfig(ce=0.2, kl_div=0.3, tv=0.4, lk_hybrid=0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("budget", [1, 3 * VOCAB, 10**6])
def test_soft_losses_equal_their_definitions(config: LossConfig, budget: int) -> None:
    torch.manual_seed(2)
    x, matrix, targets = _inputs(7, torch.float64)
    targets[3] = NO_TARGET
    rows, output = torch.randn(7, 4).double(), torch.randn(VOCAB, 4).double()
    known = torch.tensor([True, True, False, True, True, True, True])
    expected = sum(
        _by_autograd(matrix @ x[i], output @ rows[i], int(targets[i]), config)
        for i in range(7)
        if known[i]
    )
    loss = chunked_loss([(x, matrix)], targets, budget, config, Teacher(rows, output, known))
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(value, [x, matrix]) for value in (loss, expected))
    torch.testing.assert_close(found, wanted)


def test_cross_entropy_of_the_teachers_best_token() -> None:
    x, matrix, targets = _inputs(5, torch.float64)
    rows, output = torch.randn(5, 4).double(), torch.randn(VOCAB, 4).double()
    known = torch.tensor([True, False, True, True, True])
    best = (rows @ output.T).argmax(dim=1)
    expected = plain((x @ matrix.T)[known], best[known], reduction="sum")
    teacher = Teacher(rows, output, known, best=True)
    loss = chunked_loss([(x, matrix)], targets, 99, LossConfig(ce=1.0), teacher)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(value, [x, matrix]) for value in (loss, expected))
    torch.testing.assert_close(found, wanted)


def test_rows_without_a_target_teach_nothing() -> None:
    x, matrix, targets = _inputs(6, torch.float64)
    targets[[0, 4]] = NO_TARGET
    kept = targets != NO_TARGET
    expected = plain((x @ matrix.T)[kept], targets[kept], reduction="sum")
    loss = chunked_loss([(x, matrix)], targets, 2 * VOCAB)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(value, [x, matrix]) for value in (loss, expected))
    torch.testing.assert_close(found, wanted)
