"""Whether every attribute of vLLM that a patch rebinds is there, and has been rebound."""

from __future__ import annotations

import importlib

import wrapt

from vllm_lmtp import patches, plugin
from vllm_lmtp.patches.record import Binding
from vllm_lmtp.tools.doctor.check import OK, PROBLEM, Check

V2_MODULES = "vllm.v1.worker.gpu."
REMEDY = "report it with both versions; until then use a vLLM of the range that is tested"


def check_bindings(vllm_version: str, runner: int) -> list[Check]:
    """Register the plugin as vLLM would, import what it patches, and look.

    Args:
        vllm_version: as `vllm.__version__`.
        runner: the model runner in use; Model Runner V2's modules need Triton to be imported.
    """
    from vllm_lmtp.compat import is_supported

    plugin.register()
    return [
        _check(f"patch {patch.name}", binding, runner)
        for patch in patches.PATCHES
        if patch.vllm is None or is_supported(vllm_version, patch.vllm)
        for binding in patch.bindings
    ]


def _check(name: str, binding: Binding, runner: int) -> Check:
    try:
        module = importlib.import_module(binding.module)
    except Exception as error:  # vLLM's modules fail in many ways where their device is missing
        if runner == 1 and binding.module.startswith(V2_MODULES):
            return Check(name, OK, f"{binding}: not needed here, Model Runner V1 is in use")
        return Check(name, PROBLEM, f"{binding}: cannot be imported: {error!r}", REMEDY)
    try:
        wrapt.resolve_path(module, binding.attribute)
    except AttributeError:
        return Check(name, PROBLEM, f"{binding}: no such attribute in this vLLM", REMEDY)
    if not patches.applied(binding):
        return Check(name, PROBLEM, f"{binding}: not applied", REMEDY)
    return Check(name, OK, f"{binding}: applied")
