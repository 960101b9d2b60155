from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import pytest

from vllm_lmtp.tools.doctor import installation
from vllm_lmtp.tools.doctor.check import OK, PROBLEM, WARNING


def _version(**known: str) -> Callable[[str], str]:
    def version(name: str) -> str:
        if name not in known:
            raise importlib.metadata.PackageNotFoundError(name)
        return known[name]

    return version


def test_a_supported_vllm() -> None:
    assert installation._vllm("0.32.0+cpu").status == OK
    assert installation._vllm("0.33.1").status == OK


@pytest.mark.parametrize("found", ["0.31.2", "0.34.0", "dev"])
def test_any_other_vllm_is_a_problem(found: str) -> None:
    check = installation._vllm(found)
    assert check.status == PROBLEM
    assert check.remedy


def test_the_plugin_is_found() -> None:
    assert installation._plugin().status == OK


def test_vllm_plugins_can_leave_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    assert installation._plugin().status == PROBLEM
    monkeypatch.setenv("VLLM_PLUGINS", "other,lmtp")
    assert installation._plugin().status == OK


def test_a_plugin_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "entry_points", lambda group: [])
    assert installation._plugin().status == PROBLEM


def test_the_command_needs_a_distribution_called_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "version", _version())
    missing = installation._metadata("0.32.0")
    assert missing.status == PROBLEM
    assert "0.32.0+cpu" in missing.remedy
    monkeypatch.setattr(installation, "version", _version(vllm="0.32.0+cpu"))
    assert installation._metadata("0.32.0").status == OK
    monkeypatch.setattr(installation, "version", _version(vllm="0.33.0"))
    assert installation._metadata("0.32.0").status == WARNING
