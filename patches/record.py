"""What a patch is: a data record that says why, where and until when vLLM is changed.

A change never holds vLLM's code: it wraps the original and calls it, or gives what a call gave
before. vLLM binds some functions by name in several modules, so a patch lists every binding.
Modules are changed when vLLM imports them, never before, since importing a runner early would
initialise devices in the wrong process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import wrapt

from vllm_lmtp.compat import SUPPORTED_VLLM

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Binding:
    """One attribute of vLLM that is rebound.

    module: dotted module name. attribute: path in it, such as `EngineArgs.add_cli_args`.
    change: original -> replacement.
    """

    module: str
    attribute: str
    change: Callable[[Any], Any]

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


@dataclass(frozen=True)
class Patch:
    """One idea, changed in vLLM.

    why: what would not work without it. bindings: every place that must change.
    written_against: the upstream source that was read. upstream: where vLLM may make it
    unnecessary. remove_when: the condition under which this record is deleted. vllm: the versions
    it applies to; `None` for all, for the two patches that must be able to refuse a version.
    """

    name: str
    why: str
    bindings: tuple[Binding, ...]
    written_against: str
    upstream: str
    remove_when: str
    vllm: str | None = SUPPORTED_VLLM


def around(wrapper: Wrapper) -> Callable[[Any], Any]:
    """A change that calls `wrapper(original, instance, args, kwargs)` in place of the original."""
    return lambda original: wrapt.FunctionWrapper(original, wrapper)
