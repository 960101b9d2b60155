"""What is copied from the texts of Model Runner V1's batch, against a brute-force search."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.copy_search import NO_TOKEN, continuation, longest_match
from vllm_lmtp.runner_v1.texts import BatchTexts

PLACES, MOST_REQS, LONGEST_TEXT = 5, 5, 30
TEXTS = st.lists(
    st.lists(st.integers(NO_TOKEN, 3), min_size=1, max_size=LONGEST_TEXT),
    min_size=1,
    max_size=MOST_REQS,
)


def make_batch(texts: list[list[int]]) -> Any:
    """vLLM's `InputBatch` as far as texts go. Where a text has no token, and behind its end, stand
    tokens that a request before left there; its flags stay behind the end too."""
    held = np.full((MOST_REQS, LONGEST_TEXT), 1, dtype=np.int32)
    given_as_token = np.zeros((MOST_REQS, LONGEST_TEXT), dtype=bool)
    given_as_token[:, ::2] = True
    lengths = np.full(MOST_REQS, LONGEST_TEXT, dtype=np.int32)
    for row, text in enumerate(texts):
        tokens = np.array(text)
        is_token = tokens != NO_TOKEN
        held[row] = text[-1] if text[-1] != NO_TOKEN else 1
        held[row, : len(text)] = np.where(is_token, tokens, held[row, : len(text)])
        given_as_token[row, : len(text)] = is_token
        lengths[row] = len(text)
    return SimpleNamespace(
        token_ids_cpu=held, is_token_ids=given_as_token, num_tokens_no_spec=lengths
    )


def taken(texts: list[list[int]]) -> BatchTexts:
    found = BatchTexts(torch.device("cpu"))
    found.take(make_batch(texts), len(texts))
    return found


@given(TEXTS, st.integers(1, 9))
@settings(deadline=None, max_examples=150)
def test_what_is_copied_is_what_a_search_finds(texts: list[list[int]], longest: int) -> None:
    """Also of prompts that are embeddings in part, in a batch of texts of any lengths."""
    slots = torch.full((len(texts),), 7)  # of the history, which has an order of its own
    found = taken(texts).copied(slots, PLACES, longest)
    assert (found.tokens.shape, found.lengths.shape) == ((len(texts), PLACES), (len(texts),))
    for row, text in enumerate(texts):
        distance, length = longest_match(text, longest)
        assert found.lengths[row] == length
        if length:
            assert found.tokens[row].tolist() == continuation(text, distance, PLACES)


def test_every_step_is_looked_at_anew() -> None:
    texts = taken([[1, 2, 1], [3]])
    assert texts.copied(torch.arange(2), 2, 8).lengths.tolist() == [1, 0]
    texts.take(make_batch([[3, 1, 3, 1]]), 1)
    found = texts.copied(torch.arange(1), 2, 8)
    assert (found.tokens.tolist(), found.lengths.tolist()) == ([[3, 1]], [2])
