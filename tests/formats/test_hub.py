"""From what a user typed to a folder; the hub itself is never asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.hub import resolve_folder


def refuse_download(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


def test_local_folder_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_download(monkeypatch, AssertionError("the hub was asked"))
    assert resolve_folder(str(tmp_path)) == tmp_path


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heads").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_folder("~/heads") == tmp_path / "heads"


def test_id_is_fetched_without_anything_but_config_and_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(model: str, **options: Any) -> str:
        asked.update(model=model, **options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    assert resolve_folder("some/heads", "v2", "cache") == tmp_path
    assert (asked["model"], asked["revision"], asked["cache_dir"]) == ("some/heads", "v2", "cache")
    assert sorted(asked["allow_patterns"]) == [
        "*.safetensors",
        "*.safetensors.index.json",
        "config.json",
    ]


@pytest.mark.parametrize("model", ["/no/such/folder", "./gone", "~/gone", "~nobody-here/x", "a\0b"])
def test_what_is_no_id_is_refused_as_a_path(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LMTPError) as caught:
        resolve_folder(model)
    (refusal,) = caught.value.refusals
    assert (refusal.where, refusal.field, refusal.found) == (model, "path", "nothing there")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError("no network\nat all"), "no network"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError("\n"), ""),
    ],
)
def test_failed_download_is_refused_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, error: Exception, shown: str
) -> None:
    refuse_download(monkeypatch, error)
    with pytest.raises(LMTPError) as caught:
        resolve_folder("some/heads", "v2")
    (refusal,) = caught.value.refusals
    assert refusal.where == "some/heads"
    assert refusal.found.endswith(f"id: {shown}")
    assert caught.value.__cause__ is error
