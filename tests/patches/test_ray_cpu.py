"""Ray on CPUs: only where it is asked for, and ranks of two nodes share no memory."""

from __future__ import annotations

import pytest

from vllm_lmtp.patches.ray_cpu import ENV, _device_key, _group_of_node


def name_of_group(rank: int) -> str:
    return f"tp:{rank // 2}"


def group(rank: int) -> str:
    return _group_of_node(name_of_group, None, (rank,), {})


def test_nothing_changes_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV, raising=False)
    assert _device_key("") == ""
    assert group(2) == "tp:1"


def test_workers_take_pretended_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, "1")
    assert _device_key("") == "GPU"
    assert _device_key("TPU") == "TPU"


def test_memory_is_shared_within_a_node_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, "1")
    names = []
    for address in ("10.0.0.1", "10.0.0.2"):
        monkeypatch.setenv("VLLM_HOST_IP", address)
        names += [group(0), group(1)]
    assert names[0] == names[1] != names[2] == names[3]
    assert all(name.startswith("tp:0-") for name in names)
