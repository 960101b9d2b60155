"""Importing this package must cost vLLM's other users nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRINTS_HEAVY_MODULES = (
    "import sys, {module}; print(*sorted({{'torch', 'transformers', 'vllm'}} & set(sys.modules)))"
)


def heavy_modules_after_import(module: str) -> list[str]:
    command = [sys.executable, "-c", PRINTS_HEAVY_MODULES.format(module=module)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(
    "module",
    [
        "vllm_lmtp",
        "vllm_lmtp.plugin",
        "vllm_lmtp.patches",
        "vllm_lmtp.formats.checkpoint",
        "vllm_lmtp.config.fit",
        "vllm_lmtp.formats.hub",
        "vllm_lmtp.length.controller",
        "vllm_lmtp.method.leap",
        "vllm_lmtp.config.requested, vllm_lmtp.runner_v1.slots, vllm_lmtp.observe.metrics",
    ],
)
def test_import_loads_neither_torch_nor_vllm(module: str) -> None:
    assert heavy_modules_after_import(module) == []


def test_the_check_itself_notices_torch() -> None:
    assert heavy_modules_after_import("vllm_lmtp.method.history") == ["torch"]
