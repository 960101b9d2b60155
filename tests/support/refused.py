"""Reads a folder that must be refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_lmtp.errors import LMTPError, Refusal
from vllm_lmtp.formats.checkpoint import read_checkpoint


def refusals(folder: Path, stride: int | None = None) -> tuple[Refusal, ...]:
    """The refusals of a folder; each must be complete."""
    with pytest.raises(LMTPError) as caught:
        read_checkpoint(folder, stride)
    for refusal in caught.value.refusals:
        for part in (refusal.where, refusal.field, refusal.found, refusal.expected, refusal.remedy):
            assert part
            assert part in str(caught.value)
    return caught.value.refusals


def only_refusal(folder: Path, stride: int | None = None) -> Refusal:
    (refusal,) = refusals(folder, stride)
    return refusal
