"""The best tokens of heads on disk, and what differs where answers do."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.chain.target import (
    VOCAB,
    draft_vocabulary,
    embeddings,
    make_chain,
    save_chain,
    served,
)
from vllm_lmtp.eval.measurements.lossless import logit_margin
from vllm_lmtp.eval.measurements.rates import first_difference
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.tools.fit.agreement import head_best_tokens, head_top_tokens
from vllm_lmtp.tools.fit.backbone import Backbone


def test_the_chain_comes_first(tmp_path: Path) -> None:
    chain = make_chain(2, 2)
    checkpoint = read_checkpoint(save_chain(chain, tmp_path / "chain"))
    for head in range(2):
        best = head_best_tokens(checkpoint, head, embeddings(), 20)
        assert best.shape == (VOCAB, 20)
        assert best[:, 0].tolist() == list(chain.heads[head])
        assert all(len(set(row)) == 20 for row in best.tolist())


def test_a_draft_vocabulary_names_target_tokens_only(tmp_path: Path) -> None:
    """Ties among the tokens left over go to the smaller, as they are served."""
    chain, vocabulary = make_chain(2, 2), draft_vocabulary()
    folder = save_chain(chain, tmp_path / "chain", vocabulary=vocabulary, int8=True)
    checkpoint = read_checkpoint(folder)
    best = head_best_tokens(checkpoint, 1, embeddings(), 20)
    assert set(best.flatten().tolist()) <= set(vocabulary)
    assert best[:, 0].tolist() == list(served(chain, vocabulary).heads[1])
    assert torch.equal(best[:, 0], head_top_tokens(checkpoint, 1, embeddings()))


def test_no_more_tokens_than_there_are(tmp_path: Path) -> None:
    chain = make_chain(1, 2)
    folder = save_chain(chain, tmp_path / "chain", vocabulary=(3, 7, 11))
    best = head_best_tokens(read_checkpoint(folder), 0, embeddings()[:5], 20)
    assert sorted(best[0].tolist()) == [3, 7, 11]


def test_first_difference() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2, 3], [1, 2]) == 2
    assert first_difference([], []) is None


def test_the_margin_at_a_difference_is_the_logits(tmp_path: Path) -> None:
    chain = make_chain(1, 2)
    backbone = Backbone(save_chain(chain, tmp_path / "chain"))
    right = chain.walk(5, 6)
    wrong = [*right[:5], (right[5] + 1) % VOCAB]
    found = logit_margin(backbone, right[:3], right[3:], wrong[3:], 2)
    assert (found["plain"], found["lmtp"]) == (right[5], wrong[5])
    with torch.inference_mode():
        logits = backbone.model(torch.tensor([right[:5]])).logits[0, -1]
    assert found["margin"] == float(logits[right[5]] - logits[wrong[5]])
    assert found["best_margin"] == float(logits.topk(2).values.diff().abs())
    ended = logit_margin(backbone, right[:3], right[3:], right[3:5], 2)
    assert (ended["plain"], ended["lmtp"], ended["margin"]) == (right[5], None, None)
