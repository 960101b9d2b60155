"""What is read maps the file: nothing that serving keeps may still do so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support import folders
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.read import draft_vocabulary
from vllm_lmtp.worker.scorer_weights import build_scorer

ROWS = 5000
"""Many pages: a file is not seen to change where it lies in the first one alone."""


@pytest.mark.parametrize("kind", ["markov", "recurrent", "table"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scorer_keeps_no_part_of_its_file(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    """In the very dtype that it is stored in, too: one that is cut would end the process."""
    tensors = folders.heads(vocab=ROWS) | folders.scorer(kind, ROWS, 64)
    tensors |= {name: t.to(dtype) for name, t in tensors.items() if t.dtype == torch.float32}
    config = folders.config(vocab_size=ROWS, scorer={"kind": kind, "weight": 1.0})
    folders.write(tmp_path, tensors, config)
    scorer = build_scorer(read_checkpoint(tmp_path), 0, ROWS, ROWS + 64, dtype)
    assert scorer is not None
    before = {name: buffer.clone() for name, buffer in scorer.named_buffers()}
    assert before
    _overwrite(tmp_path / folders.WEIGHTS)
    assert all(torch.equal(buffer, before[name]) for name, buffer in scorer.named_buffers())


def test_a_draft_vocabulary_keeps_no_part_of_its_file(tmp_path: Path) -> None:
    tensors = folders.reduced(drafted=ROWS, vocab=ROWS + 2)
    config = folders.reduced_config(drafted=ROWS, vocab_size=ROWS + 2)
    ids = draft_vocabulary(read_checkpoint(folders.write(tmp_path, tensors, config)))
    assert ids is not None
    before = ids.clone()
    _overwrite(tmp_path / folders.WEIGHTS)
    assert torch.equal(ids, before)


def _overwrite(file: Path) -> None:
    with file.open("r+b") as handle:
        handle.write(b"\x11" * file.stat().st_size)
