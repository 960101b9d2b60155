"""The stride that heads show, on rows and heads whose agreement is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.chain.target import draft_vocabulary, embeddings, make_chain, save_chain, served
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.tools.fit.agreement import (
    HeadAgreement,
    Passage,
    agreement,
    find_stride,
    head_top_tokens,
)


def _peaked(head: int, offset: int, rate: float = 0.5, rest: float = 0.1) -> HeadAgreement:
    rates = [rest] * 12
    rates[offset - 1] = rate
    return HeadAgreement(head, tuple(rates), 1000)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_peaks_of_one_stride(stride: int) -> None:
    finding = find_stride([_peaked(i, 1 + stride * (i + 1)) for i in range(3)])
    assert finding.stride == stride


def test_heads_that_disagree_show_no_stride() -> None:
    assert find_stride([_peaked(0, 3), _peaked(1, 7)]).stride is None
    assert find_stride([_peaked(1, 4)]).stride is None  # 3 is no multiple of 2


def test_a_head_without_a_clear_peak_has_no_vote() -> None:
    unclear = _peaked(1, 9, rate=0.11)
    assert find_stride([_peaked(0, 3), unclear]).stride == 2
    assert find_stride([unclear]).stride is None


def test_untrained_heads_are_called_so() -> None:
    finding = find_stride([_peaked(0, 1), _peaked(1, 1)])
    assert finding.stride is None
    assert "never trained" in finding.reason


def test_rates_of_a_known_head() -> None:
    """Rows are the tokens themselves and the head adds three, so it agrees with t + 3 alone."""
    passages = [
        Passage(torch.arange(n), torch.arange(n, dtype=torch.float32).unsqueeze(1))
        for n in (50, 60, 5)
    ]
    found = agreement(0, lambda rows: rows[:, 0].long() + 3, passages, max_offset=12)
    assert found.rates == (0.0, 0.0, 1.0, *[0.0] * 9)
    assert found.num_rows == 38 + 48  # the passage of 5 has no row with 12 tokens after it
    assert (found.peak, found.is_clear) == (3, True)


def test_top_tokens_of_reduced_heads_are_the_targets(tmp_path: Path) -> None:
    """int8 matrices are read as what they stand for, and draft tokens by the target's ids."""
    chain, vocabulary = make_chain(2, 2), draft_vocabulary()
    folder = save_chain(chain, tmp_path, "heads", vocabulary=vocabulary, int8=True)
    checkpoint = read_checkpoint(folder)
    for head, wanted in enumerate(served(chain, vocabulary).heads):
        assert head_top_tokens(checkpoint, head, embeddings()).tolist() == list(wanted)


def test_too_short_a_text_is_refused() -> None:
    passage = Passage(torch.arange(20), torch.zeros(20, 1))
    with pytest.raises(LMTPError, match="longer text"):
        agreement(0, lambda rows: rows[:, 0].long(), [passage])
