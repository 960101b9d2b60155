"""Which vLLM versions are served."""

from __future__ import annotations

import pytest

from vllm_lmtp import compat
from vllm_lmtp.compat import SUPPORTED_VLLM
from vllm_lmtp.errors import LMTPError


@pytest.mark.parametrize(
    "version",
    [
        "0.32.0",
        "0.32.0+cpu",
        "0.32.1",
        "0.32.1.post1",
        "0.33.0",
        "0.33.0rc1",
        "0.33.0rc1.dev57+gabcdef012.cu129",
        "0.32.0.dev1",
        "0.33.7+cu129",
    ],
)
def test_releases_and_their_previews_are_supported(version: str) -> None:
    assert compat.is_supported(version)


@pytest.mark.parametrize(
    "version", ["0.31.9", "0.31.0+cpu", "0.34.0", "0.34.0rc1", "0.34.0.dev3", "1.0", "dev", ""]
)
def test_other_versions_and_nonsense_are_not(version: str) -> None:
    assert not compat.is_supported(version)


def test_range_can_be_given() -> None:
    assert compat.is_supported("0.31.0", "<0.32")
    assert not compat.is_supported("0.32.0", "<0.32")


def test_unsupported_vllm_is_refused_with_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.__version__", "0.31.0+cpu")

    with pytest.raises(LMTPError) as caught:
        compat.check_vllm()

    (refusal,) = caught.value.refusals
    assert refusal.found == "0.31.0+cpu"
    assert SUPPORTED_VLLM in refusal.expected
    assert "install" in refusal.remedy


def test_supported_vllm_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.__version__", "0.33.0+cpu")
    compat.check_vllm()
