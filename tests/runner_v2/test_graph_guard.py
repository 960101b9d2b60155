"""The guard against what a CUDA graph cannot hold does catch it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.support.graph_guard import GraphSafe, NotGraphSafeError

VALUES = torch.tensor([3, 0, 2])

SINS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "to device": lambda x: x.to(device=torch.device("cpu")),
    "numpy": lambda x: x.numpy(),
    "bool": lambda x: bool(x[0]),
    "int": lambda x: int(x[0]),
    "float": lambda x: float(x[0]),
    "index": lambda x: [1, 2, 3, 4][x[0]],
    "if": lambda x: 1 if x.any() else 2,
    "slice": lambda x: x[: x[0]],
    "equal": lambda x: torch.equal(x, x),
    "scalar": lambda x: torch.full((2,), x[0].item()),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "boolean read": lambda x: x[x > 0],
    "boolean write": lambda x: x.clone().__setitem__(x > 0, torch.tensor([1, 1])),
    "unique": lambda x: x.unique(),
    "repeat_interleave": lambda x: torch.repeat_interleave(x),
}


@pytest.mark.parametrize("sin", SINS)
def test_it_is_caught(sin: str) -> None:
    SINS[sin](VALUES)  # sound torch, and yet
    with pytest.raises(NotGraphSafeError), GraphSafe():
        SINS[sin](VALUES)


def test_shapes_and_numbers_that_depend_on_data_show_in_the_log() -> None:
    def log(count: int) -> list[str]:
        with GraphSafe() as guard:
            torch.zeros(4).add(count)
        return guard.log

    assert log(2) == log(2) != log(3)


def test_sound_code_passes() -> None:
    with GraphSafe() as guard:
        torch.where(VALUES > 0, VALUES, 7)[VALUES.clamp(max=1)].sum()
    assert guard.log[-1].startswith("aten.sum.default (torch.int64[3])")
