"""A disk that is full at any write of a tool: a refusal that names the place, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.disk import content, full_at, full_beyond
from tests.support.adapters import save_adapter
from tests.support.chain.target import make_chain
from tests.support.medusa_heads import save_medusa
from tests.support.random_models import save_stage1
from vllm_lmtp.cli import build_parser
from vllm_lmtp.errors import LMTPError

Act = Callable[[], Any]
MOST_FILES = 20


def command(*words: object) -> Act:
    """A command, whose refusal is raised here as an error."""

    def act() -> None:
        args = build_parser().parse_args([str(word) for word in words])
        assert args.run(args) in (0, None)

    return act


def check(act: Act, place: Path, root: Path, read: Callable[[], object] | None = None) -> int:
    """Let every write of `act` fail in turn; returns how many there were.

    Args:
        place: what the refusal must name. root: everything that `act` may touch.
        read: of what was there before, where bytes may differ and mean the same.
    """
    seen = read or (lambda: content(root))
    before = seen()
    for number in range(MOST_FILES):
        with full_at(number, root) as count:
            if count.failed:
                break
            try:
                act()
            except LMTPError as error:
                assert count.failed
                (refusal,) = error.refusals
                assert str(place) in refusal.where
                assert "No space left on device" in refusal.found
                assert refusal.expected
                assert refusal.remedy
            else:
                assert not count.failed, "a write failed and nothing was said"
        if not count.failed:
            return number
        assert seen() == before, f"write {number} left something, or took something away"
    raise AssertionError("it never ended")


FOLDERS = ("export", "heads", "medusa", "merge")


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_a_model(kind: str, tmp_path: Path) -> None:
    """New, and in place of an older one."""
    given, work = tmp_path / "given", tmp_path / "work"
    work.mkdir()
    stage1, out = save_stage1(given / "stage1"), work / "out"
    if kind == "medusa":
        words = ("convert", "--from-medusa", save_medusa(make_chain(3, 1), given / "medusa"), out)
    elif kind == "merge":
        words = ("merge", stage1, save_adapter(given / "adapter", stage1), out)
    else:
        words = (
            ("export", stage1, out) if kind == "export" else ("convert", "--to", kind, stage1, out)
        )
    read = content(given)
    writes = check(command(*words), out, work)
    assert writes >= 3
    assert content(out)
    assert check(command(*words, "--overwrite"), out, work) == writes
    assert content(given) == read


def test_a_library_that_is_not_python(tmp_path: Path) -> None:
    """Every size of disk: safetensors' own writer, the tokenizer's, torch's."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    from tests.support.random_models import EMBEDDED
    from vllm_lmtp.formats.whole import room_for, whole_folder

    tokenizer = AutoTokenizer.from_pretrained(str(EMBEDDED))
    writers: list[Callable[[Path], Any]] = [
        lambda folder: save_file({"a": torch.zeros(10_000)}, folder / "a.safetensors"),
        lambda folder: torch.save(torch.zeros(10_000), folder / "a.pt"),
        tokenizer.save_pretrained,
    ]
    out = tmp_path / "out"
    with whole_folder(out) as new:
        (new / "before").write_text("before")

    def in_folder(folder: Path, write: Callable[[Path], Any]) -> None:
        with whole_folder(folder) as new:
            write(new)

    for write in writers:
        for limit in (0, 10, 1000, 30_000):
            with pytest.raises(LMTPError) as error, full_beyond(limit), room_for(out):
                in_folder(out, write)
            (refusal,) = error.value.refusals
            assert refusal.where == str(out)
            assert refusal.found.startswith("cannot be written (")
            assert content(tmp_path) == {"out/before": b"before"}


def test_what_is_no_want_of_room_is_not_called_so(tmp_path: Path) -> None:
    from safetensors import safe_open

    from vllm_lmtp.errors import refuse
    from vllm_lmtp.formats.whole import room_for

    (tmp_path / "x").write_bytes(b"no tensors")
    quoted = refuse("x", "y", found="(os error 28)", expected="z", remedy="w")
    with pytest.raises(LMTPError) as error, room_for(tmp_path):
        raise quoted
    assert error.value is quoted
    with pytest.raises(Exception, match="header") as other, room_for(tmp_path):
        safe_open(str(tmp_path / "x"), framework="pt").__enter__()
    assert not isinstance(other.value, LMTPError)
    with pytest.raises(FileNotFoundError), room_for(tmp_path):
        (tmp_path / "nowhere").read_bytes()
