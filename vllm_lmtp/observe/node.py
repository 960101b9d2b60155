"""What a worker says of the machine it runs on, and whether the package there is the same.

A cluster's nodes have environments of their own. A worker with another vllm-lmtp or vLLM than the
process that planned the work must stop the start, by name, before it drafts something else.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vllm_lmtp import __version__
from vllm_lmtp.compat import vllm_version
from vllm_lmtp.errors import LMTPError, Refusal, raise_refusals


def node_name() -> str:
    """This machine's name, and its address where vLLM was told one."""
    address = os.environ.get("VLLM_HOST_IP")
    return socket.gethostname() + (f" ({address})" if address else "")


def versions() -> dict[str, str]:
    """What must be alike on every node."""
    return {"vllm-lmtp": __version__, "vllm": vllm_version()}


def check_versions(planned: dict[str, str]) -> None:
    """Report this worker's versions, and compare them with those of the process that planned.

    Raises:
        LMTPError: they differ; it names the node.
    """
    from vllm.logger import init_logger

    here = versions()
    node = node_name()
    init_logger("vllm.lmtp.node").info(
        "vllm-lmtp %s on vLLM %s, node %s, process %d",
        here["vllm-lmtp"],
        here["vllm"],
        node,
        os.getpid(),
    )
    raise_refusals(
        [
            Refusal(
                f"node {node}",
                name,
                here[name],
                f"{version}, as on the node that started the engine",
                f"install {name} {version} on this node",
            )
            for name, version in planned.items()
            if here.get(name) != version
        ]
    )


@contextmanager
def named() -> Iterator[None]:
    """Refusals raised inside say on which node."""
    try:
        yield
    except LMTPError as error:
        where = f"node {node_name()}"
        raise LMTPError(
            [replace(refusal, where=f"{where}: {refusal.where}") for refusal in error.refusals]
        ) from error


def processor_name() -> str:
    """This machine's processor, as its maker calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
