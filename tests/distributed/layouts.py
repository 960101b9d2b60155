"""The ways of splitting a model that the distributed tests start, and the record of how they fared.

A test that starts a layout carries the mark `layout(split, where, runner, model)`, and pytest
writes how it ended to the file of `--layouts` (tests/conftest.py). docs/compatibility.md shows
that file (table.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

V1 = (1, False)
V2 = (2, True)
RUNNERS = {V1: "V1", V2: "V2, asynchronous"}

PROCESSES = "processes of one node"
ONE_NODE = "Ray, one node"
TWO_NODES = "Ray, two nodes"

CHAIN = "chain"
CHECKPOINT = "checkpoint"
FAULT = "faults"
REFUSAL = "refusal"


@dataclass(frozen=True)
class Layout:
    """`split` names what `args`, vLLM's own options, divide; `nodes` raylets, none without Ray."""

    split: str
    args: dict[str, Any] = field(hash=False)
    nodes: int = 0

    @property
    def where(self) -> str:
        return (PROCESSES, ONE_NODE, TWO_NODES)[self.nodes]


def tensor(size: int, nodes: int = 0) -> Layout:
    return Layout(f"TP {size}", {"tensor_parallel_size": size}, nodes)


def pipeline(size: int, nodes: int = 0) -> Layout:
    return Layout(f"PP {size}", {"pipeline_parallel_size": size}, nodes)


TENSOR_AND_PIPELINE = Layout(
    "TP 2 x PP 2", {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
)
DATA = Layout("DP 2", {"data_parallel_size": 2})


def mark(layout: Layout, runner: tuple[int, bool], model: str) -> pytest.MarkDecorator:
    """Has the test's end recorded."""
    return pytest.mark.layout(layout.split, layout.where, RUNNERS[runner], model)
