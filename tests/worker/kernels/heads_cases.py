"""`LeapHeads` with the kernels against `LeapHeads` without; run as `cases.py` is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import triton

from tests.support import folders
from tests.support.one_rank_world import one_process_world  # noqa: F401
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.read import draft_vocabulary
from vllm_lmtp.worker.head_dtype import QUANTISED
from vllm_lmtp.worker.heads import LeapHeads
from vllm_lmtp.worker.weights import load_heads

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
HIDDEN, VOCAB = 40, 160


def load(folder: Path, asked: str, kernels: bool) -> LeapHeads:
    found = read_checkpoint(folder)
    held = QUANTISED.get(asked) if kernels else None
    with torch.device(DEVICE):
        heads = LeapHeads(2, 1, HIDDEN, found.output_rows, torch.float32, held=held)
    ids = draft_vocabulary(found)
    heads.target_ids = None if ids is None else ids.to(DEVICE)
    heads.kernels = kernels
    load_heads(heads, found, asked)
    return heads


def save(folder: Path, reduced: bool) -> Path:
    if reduced:
        values = folders.reduced_config(97, hidden_size=HIDDEN, vocab_size=VOCAB)
        return folders.write(folder, folders.reduced(2, 97, HIDDEN, VOCAB), values)
    values = folders.config(n_head=2, hidden_size=HIDDEN, vocab_size=VOCAB)
    return folders.write(folder, folders.heads(2, 1, HIDDEN, VOCAB), values)


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("asked", ["float32", "int8", "fp8"])
def test_kernels_draft_what_plain_torch_drafts(tmp_path: Path, asked: str, reduced: bool) -> None:
    """Vocabularies of 160 and 97 rows, both padded; logits too, which scorers read."""
    folder = save(tmp_path, reduced)
    plain, fast = load(folder, asked, False), load(folder, asked, True)
    rows = torch.randn(9, HIDDEN, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    assert torch.equal(fast.top_tokens(rows, 2), plain.top_tokens(rows, 2))
    tokens, likely = fast.top_with_log_probability(rows, 2)
    wanted_tokens, wanted_likely = plain.top_with_log_probability(rows, 2)
    assert torch.equal(tokens, wanted_tokens)
    torch.testing.assert_close(likely, wanted_likely, rtol=1e-4, atol=1e-3)
    for head in range(2):
        wanted, got = plain.logits(rows, head), fast.logits(rows, head)
        assert got.shape == wanted.shape
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)
    if asked in QUANTISED:
        assert fast.output(0).weight.dtype == QUANTISED[asked]
        assert fast.num_bytes < plain.num_bytes
