"""Workers compare versions and name their node."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest

from vllm_lmtp.errors import LMTPError, refuse
from vllm_lmtp.observe import node


@pytest.fixture(autouse=True)
def this_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "worker-3")
    monkeypatch.setenv("VLLM_HOST_IP", "10.0.0.3")


def test_a_node_has_name_and_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.node_name() == "worker-3 (10.0.0.3)"
    monkeypatch.delenv("VLLM_HOST_IP")
    assert node.node_name() == "worker-3"


def test_equal_versions_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("vllm.lmtp.node")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    try:
        node.check_versions(node.versions())
    finally:
        logger.removeHandler(caplog.handler)
    assert any("node worker-3 (10.0.0.3)" in text for text in caplog.messages)


@pytest.mark.parametrize("package", ["vllm-lmtp", "vllm"])
def test_another_version_is_refused_by_the_nodes_name(package: str) -> None:
    with pytest.raises(LMTPError) as caught:
        node.check_versions(node.versions() | {package: "9.9"})
    (refusal,) = caught.value.refusals
    assert refusal.where == "node worker-3 (10.0.0.3)"
    assert (refusal.field, refusal.expected[:3]) == (package, "9.9")
    assert refusal.found == node.versions()[package]


def test_refusals_on_a_worker_name_the_node() -> None:
    def fail() -> None:
        with node.named():
            raise refuse("heads", "config.json", found="none", expected="one", remedy="copy it")

    with pytest.raises(LMTPError, match=r"node worker-3 \(10\.0\.0\.3\): heads: config\.json"):
        fail()


def test_a_worker_checks_as_it_gets_the_config() -> None:
    """The config is an argument of Ray's actors: unpickling it is the first that runs there."""
    from vllm_lmtp.config.spec_config import LMTPSpeculativeConfig

    def sent(versions: dict[str, str]) -> Any:
        made = object.__new__(LMTPSpeculativeConfig)
        vars(made).update({"method": "lmtp", "lmtp_n_heads": 2, "lmtp_versions": versions})
        return pickle.dumps(made)

    assert vars(pickle.loads(sent(node.versions())))["lmtp_n_heads"] == 2
    with pytest.raises(LMTPError, match="node worker-3"):
        pickle.loads(sent({"vllm-lmtp": "0.0.1"}))
