"""A run goes on only as what it was."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from vllm_lmtp.errors import LMTPError
from vllm_lmtp.training.resume import must_be_as_begun


@dataclass(frozen=True)
class Run:
    output: str = "a"
    dataset: str = "/here/data"
    lengths: tuple[int, ...] = (1, 2)
    answers: int = 1
    optim: dict[str, float] = field(default_factory=lambda: {"lr": 0.1, "save_every": 5})


@pytest.mark.parametrize(
    "changed",
    [
        Run(output="b"),
        Run(dataset="/there/data"),
        Run(answers=2),
        Run(optim={"lr": 0.1, "save_every": 7}),
    ],
)
def test_what_changes_nothing_may_change(changed: Run, tmp_path: Path) -> None:
    file = tmp_path / "work" / "settings.json"
    must_be_as_begun(file, Run(), begun=False, free=("answers",))
    must_be_as_begun(file, changed, begun=True, free=("answers",))


@pytest.mark.parametrize(
    ("field_name", "changed"),
    [
        ("dataset", Run(dataset="/here/other")),
        ("lengths", Run(lengths=(1, 3))),
        ("optim", Run(optim={"lr": 0.2, "save_every": 5})),
    ],
)
def test_all_else_is_refused_once_there_is_work(
    field_name: str, changed: Run, tmp_path: Path
) -> None:
    file = tmp_path / "settings.json"
    must_be_as_begun(file, Run(), begun=False)
    before = file.read_text()
    with pytest.raises(LMTPError) as error:
        must_be_as_begun(file, changed, begun=True)
    assert [refusal.field for refusal in error.value.refusals] == [field_name]
    assert file.read_text() == before
    must_be_as_begun(file, changed, begun=False)  # nothing had been made yet
    must_be_as_begun(file, replace(changed), begun=True)


def test_work_of_an_earlier_version_is_taken_as_it_is(tmp_path: Path) -> None:
    must_be_as_begun(tmp_path / "settings.json", Run(), begun=True)
    assert not (tmp_path / "settings.json").exists()
