"""Rows in int8."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from vllm_lmtp.formats.int8 import LARGEST, quantise_rows  # noqa: E402
from vllm_lmtp.formats.read import dequantised  # noqa: E402


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7)])
def test_within_half_a_step_of_the_matrix(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape) * torch.logspace(-4, 4, 5).unsqueeze(-1)
    values, scale = quantise_rows(matrix)
    assert values.dtype is torch.int8
    assert scale.shape == shape[:-1]
    error = (dequantised(values, scale) - matrix).abs()
    assert (error <= 0.5001 * scale.unsqueeze(-1)).all()
    assert (values.abs().amax(dim=-1) == LARGEST).all()


def test_rows_of_zeros_stay_zeros() -> None:
    values, scale = quantise_rows(torch.zeros(2, 3))
    assert not values.any()
    assert scale.tolist() == [1, 1]
