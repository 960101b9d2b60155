"""A stand-in for `torch.cuda.CUDAGraph` on CPU tensors: it records operators and runs them again.

As in a real graph, a replay reads the tensors that were there when it was recorded, writes its
results where they were then, and runs no Python. What was passed in by value stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraph:
    """What was recorded, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    @torch.inference_mode()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, results in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.graph.calls.append((func, args, kwargs, result))
        return result


@contextmanager
def _record(graph: RecordedGraph, pool: Any = None, stream: Any = None) -> Iterator[None]:
    with _Recorder(graph):
        yield


def record_graphs(patch: pytest.MonkeyPatch) -> None:
    """Let vLLM's graph manager record on CPU tensors."""
    utils = "vllm.v1.worker.gpu.cudagraph_utils"
    patch.setattr("torch.cuda.CUDAGraph", RecordedGraph)
    patch.setattr("torch.cuda.graph", _record)
    patch.setattr(f"{utils}.graph_capture", lambda device: nullcontext())
    patch.setattr(f"{utils}.capture_pool", lambda pool, config: nullcontext(pool))
    patch.setattr(f"{utils}.current_stream", lambda: None)
    patch.setattr(f"{utils}.current_platform.get_global_graph_pool", lambda: None, raising=False)
