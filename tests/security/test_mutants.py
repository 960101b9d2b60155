"""Ten thousand mutated folders of heads: each is read or refused, soon, and never else."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.security.limits import HANGS, HangError, no_hang
from tests.security.mutants import make
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.contents import describe
from vllm_lmtp.formats.read import block_tensor, draft_vocabulary, output_matrix
from vllm_lmtp.formats.speculators import check_speculators
from vllm_lmtp.worker.scorer_weights import build_scorer

SOME, MANY = 300, 10_000


def read_whole(folder: Path) -> None:
    """Everything that serving and the tools take from a folder of heads, values included."""
    checkpoint = read_checkpoint(folder)
    vocabulary = draft_vocabulary(checkpoint)
    assert vocabulary is None or len(vocabulary) == checkpoint.output_rows
    for head in range(checkpoint.schedule.n_heads):
        matrix = output_matrix(checkpoint, head, torch.float32)
        assert matrix.shape == (checkpoint.output_rows, checkpoint.hidden_size)
        for kind in ("weight", "bias"):
            assert block_tensor(checkpoint, head, kind, torch.float32).isfinite().all()
    scorer = build_scorer(
        checkpoint, 0, checkpoint.output_rows, checkpoint.output_rows + 2, torch.float32
    )
    assert (scorer is None) == (checkpoint.scorer is None)
    check_speculators_where_stated(folder)
    assert describe(str(folder))["vocab_size"] == checkpoint.vocab_size


def check_speculators_where_stated(folder: Path) -> None:
    from vllm_lmtp.formats.checkpoint import read_config

    config = read_config(folder)
    if "speculators_config" in config:
        check_speculators(folder, config)


def outcome(number: int) -> tuple[str, float]:
    """How a mutant ends: "read", "refused", or the name of what should never have been raised."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, number)
        began = time.process_time()
        try:
            with no_hang():
                read_whole(folder)
            found = "read"
        except LMTPError as error:
            found = "refused"
            if not all(r.where and r.field and r.found and r.remedy for r in error.refusals):
                found = "refused without a reason"
        except (Exception, HangError) as error:
            found = f"{type(error).__name__}: {str(error)[:200]}"
        return found, time.process_time() - began


def check(numbers: range) -> Counter[str]:
    found: Counter[str] = Counter()
    bad: dict[int, Any] = {}
    for number in numbers:
        end, seconds = outcome(number)
        found[end] += 1
        if end not in ("read", "refused") or seconds > HANGS:
            bad[number] = end, seconds
    assert not bad, f"{len(bad)} of {len(numbers)}: {dict(list(bad.items())[:10])}"
    return found


def test_some_hundred_mutants() -> None:
    found = check(range(SOME))
    # Else the mutations would be too coarse or too fine to find anything.
    assert found["read"] > SOME / 20
    assert found["refused"] > SOME / 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_mutants() -> None:
    check(range(SOME, MANY))


def test_a_mutant_is_the_same_everywhere(tmp_path: Path) -> None:
    for number in range(40):
        made = []
        for name in ("a", "b"):
            folder = tmp_path / f"{number}-{name}"
            folder.mkdir()
            make(folder, number)
            # Not of those that say they are large.
            sizes = {f.name: f.lstat().st_size for f in sorted(folder.iterdir())}
            small = [f for f in folder.iterdir() if f.is_file() and f.stat().st_size < 10**5]
            made.append((sizes, {f.name: f.read_bytes() for f in small if not f.is_symlink()}))
        assert made[0] == made[1]
