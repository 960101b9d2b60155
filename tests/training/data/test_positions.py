"""Batches of positions hold the rows and tokens that stand there."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("datasets")

from torch.utils.data import DataLoader  # noqa: E402

from tests.support.training.kept import END, save_kept  # noqa: E402
from vllm_lmtp.training.data.kept_rows import load_rows, read_answers  # noqa: E402
from vllm_lmtp.training.data.positions import Positions, as_it_is  # noqa: E402
from vllm_lmtp.training.data.rows import IGNORE  # noqa: E402

TEXTS = [
    ([1, 2], [3, 4, 5, 6], False),
    ([7], [8, 9], True),
    ([2], [5], False),  # too short for a draft
    ([4, 4, 4], [1, 2, 3, 4, 5], True),
]


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(
    ("before", "after", "places"), [(0, 0, 2), (1, 0, 4), (1, 4, 4), (2, 3, 3)]
)
def test_every_position_has_its_rows_and_tokens(
    tmp_path: Path, shards: int, before: int, after: int, places: int
) -> None:
    answers = read_answers(save_kept(tmp_path / "d", TEXTS, 3, shards=shards), END)
    expected = []
    for answer in answers:
        rows, tokens = load_rows(answer), answer.tokens
        for at in range(before, len(tokens) - 2):
            ahead = range(at + 1, at + 2 + places)
            labels = [tokens[i] if i < len(tokens) else IGNORE for i in list(ahead)[1:]]
            window = [rows[min(i, len(rows) - 1)] for i in range(at - before, at + after + 1)]
            expected.append((torch.stack(window), tokens[at + 1], labels))
    positions = Positions(answers, before, after, places)
    assert len(positions) == len(expected)
    order = torch.randperm(len(expected), generator=torch.Generator().manual_seed(1))
    batch = positions.batch(order)
    for place, number in enumerate(order.tolist()):
        rows, sampled, labels = expected[number]
        assert torch.equal(batch["rows"][place], rows)
        assert int(batch["tokens"][place, 0]) == sampled
        assert batch["labels"][place].tolist() == labels
        for token, label in zip(batch["tokens"][place, 1:].tolist(), labels, strict=True):
            assert token == label or label == IGNORE


def test_a_loader_asks_for_whole_batches(tmp_path: Path) -> None:
    positions = Positions(read_answers(save_kept(tmp_path / "d", TEXTS, 3), END), 1, 0, 4)
    loader = DataLoader(positions, batch_size=3, shuffle=True, collate_fn=as_it_is)
    batches = list(loader)
    assert [len(batch["tokens"]) for batch in batches[:-1]] == [3] * (len(batches) - 1)
    found = torch.cat([batch["rows"][:, 1, 0] for batch in batches])
    assert (
        sorted(found.tolist())
        == positions.batch(torch.arange(len(positions)))["rows"][:, 1, 0].sort().values.tolist()
    )


def test_rows_are_mapped_and_not_read(tmp_path: Path) -> None:
    """A change of the file shows, as it would not in a copy."""
    folder = save_kept(tmp_path / "d", TEXTS, 3)
    positions = Positions(read_answers(folder, END), 0, 0, 2)
    before = positions.batch(torch.tensor([0]))["rows"].clone()
    file = folder / "shard-000.rows.safetensors"
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    with file.open("r+b") as handle:
        handle.seek(start)
        handle.write(b"\xff\xff\x7f\x7f" * ((len(data) - start) // 4))
    assert not torch.equal(positions.batch(torch.tensor([0]))["rows"], before)
