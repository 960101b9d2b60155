"""Which tokens heads can name."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from vllm_lmtp.errors import LMTPError  # noqa: E402
from vllm_lmtp.training.data.draft_vocab import (  # noqa: E402
    MULTIPLE,
    DraftVocab,
    choose,
    count_tokens,
    coverage_of,
)
from vllm_lmtp.training.data.rows import IGNORE  # noqa: E402

VOCAB = 4 * MULTIPLE


def _falling() -> torch.Tensor:
    """Token i stands VOCAB - i times."""
    return torch.arange(VOCAB, 0, -1)


def test_the_most_frequent_tokens_in_the_order_of_their_ids() -> None:
    counts = _falling().flip(0)
    vocab = choose(counts, counts, size=MULTIPLE, coverage=None)
    assert vocab.target_ids.tolist() == list(range(VOCAB - MULTIPLE, VOCAB))
    assert vocab.d2t.tolist() == [VOCAB - MULTIPLE] * MULTIPLE


def test_a_token_that_must_belong_belongs() -> None:
    vocab = choose(_falling(), _falling(), size=MULTIPLE, coverage=None, always=[VOCAB - 1])
    assert vocab.target_ids.tolist() == [*range(MULTIPLE - 1), VOCAB - 1]


@pytest.mark.parametrize("coverage", [0.1, 0.5, 0.9, 0.97, 1.0])
def test_the_least_size_that_covers(coverage: float) -> None:
    counts = _falling()
    vocab = choose(counts, counts, size=None, coverage=coverage)
    assert coverage_of(vocab, counts) >= coverage
    if len(vocab) > MULTIPLE:
        smaller = choose(counts, counts, size=len(vocab) - MULTIPLE, coverage=None)
        assert coverage_of(smaller, counts) < coverage


def test_coverage_that_training_texts_cannot_give_is_refused() -> None:
    train, held = _falling(), _falling()
    train[VOCAB // 2 :] = 0
    with pytest.raises(LMTPError, match=r"found 0\.97; expected at most 0\.7"):
        choose(train, held, size=None, coverage=0.97)


def test_never_larger_than_the_target() -> None:
    assert len(choose(_falling(), _falling(), size=10**6, coverage=None)) == VOCAB


def test_labels_of_left_out_tokens_are_ignored() -> None:
    vocab = DraftVocab(torch.tensor([2, 5]), 7)
    assert vocab.to_labels(torch.tensor([[5, 2, 3, IGNORE]])).tolist() == [[1, 0, IGNORE, IGNORE]]
    assert vocab.draft_ids(unknown=2).tolist() == [2, 2, 0, 2, 2, 1, 2]


def test_counting_refuses_tokens_of_another_model() -> None:
    assert count_tokens([[1, 1], [], [0]], 3).tolist() == [1, 2, 0]
    with pytest.raises(LMTPError, match="found token 3"):
        count_tokens([[1, 3]], 3)
