"""Watches tensor code for what a CUDA graph cannot hold: host reads and data-dependent shapes."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

HOST_READS = {
    "item",
    "tolist",
    "cpu",
    "numpy",
    "__array__",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__iter__",
    "__contains__",
    "equal",
    "allclose",
}
HOST_OPS = {"_local_scalar_dense", "item", "equal", "is_nonzero"}
DATA_SHAPES = {
    "nonzero",
    "nonzero_static",
    "masked_select",
    "unique_dim",
    "_unique",
    "_unique2",
    "unique_consecutive",
    "bincount",
    "repeat_interleave",
}


class NotGraphSafeError(AssertionError):
    """The code under the guard could not be recorded in a CUDA graph."""


class _Calls(TorchFunctionMode):
    """Host reads as Python sees them: on CPU tensors some of them run no operator at all."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in HOST_READS:
            raise NotGraphSafeError(f"host read: {name}")
        to_host = (*args[1:], *kwargs.values()) if name in ("to", "copy_") else ()
        if any(str(a) == "cpu" for a in to_host if isinstance(a, str | torch.device)):
            raise NotGraphSafeError(f"host read: {name} cpu")
        return func(*args, **kwargs)


class _Ops(TorchDispatchMode):
    """Operators: their names and shapes in order, and those whose result's shape is data."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in HOST_OPS:
            raise NotGraphSafeError(f"host read: {name}")
        if name in DATA_SHAPES:
            raise NotGraphSafeError(f"data-dependent shape: {name}")
        indices = args[1] if name.startswith(("index", "_index")) and len(args) > 1 else ()
        for index in indices if isinstance(indices, list | tuple) else ():
            if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
                raise NotGraphSafeError(f"data-dependent shape: boolean index in {name}")
        result = func(*args, **(kwargs or {}))
        self.log.append(f"{func} {_shown(args)} {_shown(kwargs or {})} -> {_shown(result)}")
        return result


class GraphSafe:
    """`with GraphSafe() as guard:` fails on what a graph cannot hold; `guard.log` lists the rest.

    Two runs over batches of one shape must have equal logs. A number that was read from a tensor
    shows there too: arguments that are no tensors are logged by value.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self._modes = (_Calls(), _Ops(self.log))

    def __enter__(self) -> GraphSafe:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(kind, error, trace)


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_shown, value)) + ")"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}={_shown(v)}" for k, v in value.items()) + "}"
    return repr(value)
