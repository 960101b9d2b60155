"""int8 matrices that stay int8 on CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from vllm.utils.torch_utils import set_default_torch_dtype

from tests.support import folders
from tests.support.one_rank_world import one_process_world  # noqa: F401
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.int8 import quantise_rows
from vllm_lmtp.method.scorer import MarkovScorer
from vllm_lmtp.worker.cpu_int8 import Int8Product, can_multiply
from vllm_lmtp.worker.cpu_term import speed_up
from vllm_lmtp.worker.weights import build_heads

pytestmark = pytest.mark.skipif(
    not can_multiply(), reason="needs a CPU with AVX512-VNNI, and vLLM's CPU build"
)


def made(outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor, Int8Product]:
    """A product, and its matrix in float64."""
    random = torch.Generator().manual_seed(0)
    values, scales = quantise_rows(torch.randn(outputs, inputs, generator=random))
    return values, scales, Int8Product(values.clone(), scales.clone())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2, 3, 17, 130])
@pytest.mark.parametrize(("outputs", "inputs"), [(1000, 64), (16384, 576), (7, 96)])
def test_it_is_the_product_up_to_rounding(
    outputs: int, inputs: int, count: int, dtype: torch.dtype
) -> None:
    """Rows with entries of very different sizes, as hidden states have."""
    values, scales, product = made(outputs, inputs)
    rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count))
    rows[:, ::17] *= 50
    rows = rows.to(dtype)
    exact = rows.double() @ (values.double() * scales.double()[:, None]).T
    found = product(rows)
    assert (found.dtype, found.shape) == (torch.float32, (count, outputs))
    assert (found - exact).norm() <= 1e-3 * exact.norm()
    assert (product(rows) == found).all()


def test_it_is_made_while_the_default_is_the_dtype_of_the_target() -> None:
    rows = torch.randn(3, 64)
    with set_default_torch_dtype(torch.bfloat16):
        values, scales, product = made(100, 64)
        found = product(rows)
    exact = rows.double() @ (values.double() * scales.double()[:, None]).T
    assert found.dtype == torch.float32
    assert (found - exact).norm() <= 1e-2 * exact.norm()


def test_a_row_is_the_same_beside_others() -> None:
    _, _, product = made(512, 128)
    rows = torch.randn(9, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(product(rows)[4], product(rows[4:5])[0])


def test_rows_of_nothing_and_of_no_numbers_spoil_themselves_alone() -> None:
    _, _, product = made(512, 128)
    rows = torch.randn(5, 128, generator=torch.Generator().manual_seed(2))
    good = product(rows)
    rows[1], rows[2, 7], rows[3, 9] = 0.0, float("nan"), float("inf")
    found = product(rows)
    assert (found[1] == 0).all()
    assert torch.equal(found[[0, 4]], good[[0, 4]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_term_adds_its_product(dtype: torch.dtype) -> None:
    """The product is of the values as stored, whatever dtype the target has."""
    random = torch.Generator().manual_seed(3)
    values, scales = quantise_rows(torch.randn(512, 64, generator=random))
    values[5] = values[5].clamp(-90, 90)  # a row that does not reach 127
    term = MarkovScorer(torch.zeros(513, 64), torch.zeros(512, 64), torch.arange(600))
    speed_up(term, (values, scales))
    known = torch.randn(3, 64, generator=random).to(dtype)
    logits = torch.randn(3, 512, generator=random)
    exact = logits.double() + known.double() @ (values.double() * scales.double()[:, None]).T
    found = term.add(logits.clone(), 0, known)
    assert (found - exact).norm() <= 1e-3 * exact.norm()


def test_stored_int8_stays_and_nothing_else_is_rounded(tmp_path: Path) -> None:
    ids = torch.arange(97) * 7 + 3
    tensors = folders.reduced(2, 97, 32)
    tensors["heads.d2t"] = ids - torch.arange(97)
    values = folders.reduced_config(97, hidden_size=32, vocab_size=1000)
    stored = read_checkpoint(folders.write(tmp_path / "int8", tensors, values))
    heads = build_heads(stored, torch.float32)
    assert (heads.held, len(heads.products)) == (torch.int8, 2)
    assert not build_heads(stored, torch.float32, "float32").products
    name = "heads.heads.1.lm_head"
    scale = tensors.pop(f"{name}.scale")
    tensors[f"{name}.weight"] = tensors[f"{name}.weight"].float() * scale.unsqueeze(1)
    mixed = read_checkpoint(folders.write(tmp_path / "mixed", tensors, values))
    assert build_heads(mixed, torch.float32).held == torch.float32
    assert len(build_heads(mixed, torch.float32, "int8").products) == 2
