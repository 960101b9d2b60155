"""A term of lower rank: what Eckart and Young say of the matrix, and a folder that serves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.chain.scorers import RANK as HAD
from tests.support.chain.scorers import calibrated, markov
from tests.support.chain.target import make_chain, save_chain
from tests.support.random_models import EMBEDDED, config_of, fields, succeed, tensors_of
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.tools.scorers.low_rank import factors_of_rank
from vllm_lmtp.worker.scorer_weights import build_scorer

ROWS, TOKENS, RANK = 31, 23, 12


@pytest.mark.parametrize("heads", [(), (3,)])
@pytest.mark.parametrize("rank", [1, 5, RANK])
def test_the_nearest_matrix(heads: tuple[int, ...], rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    embed = torch.randn(ROWS, RANK, generator=generator)
    output = torch.randn(*heads, TOKENS, RANK, generator=generator)
    whole = embed @ (output - output.mean(-2, keepdim=True)).flatten(0, -2).T
    values = torch.linalg.svdvals(whole).square()
    lower_embed, lower_output, kept = factors_of_rank(embed, output, rank)
    assert lower_embed.shape == (ROWS, rank)
    assert lower_output.shape == (*heads, TOKENS, rank)
    lost = (whole - lower_embed @ lower_output.flatten(0, -2).T).square().sum()
    assert float(lost) == pytest.approx(float(values[rank:].sum()), rel=1e-4, abs=1e-3)
    assert kept == pytest.approx(float(values[:rank].sum() / values.sum()), rel=1e-5)


def test_what_a_softmax_cannot_see_takes_no_rank() -> None:
    """A term of rank 1 to which each preceding token adds a number of its own."""
    generator = torch.Generator().manual_seed(0)
    embed = torch.randn(ROWS, 2, generator=generator)
    output = torch.stack([torch.randn(TOKENS, generator=generator), torch.full((TOKENS,), 9.0)], 1)
    lower_embed, lower_output, kept = factors_of_rank(embed, output, 1)
    assert kept == pytest.approx(1.0)
    wanted = (embed @ output.T).log_softmax(-1)
    torch.testing.assert_close((lower_embed @ lower_output.T).log_softmax(-1), wanted)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("per_head", [False, True])
def test_a_folder_is_written_that_serves(per_head: bool, int8: bool, tmp_path: Path) -> None:
    chain = make_chain(n_heads=3, stride=2)
    folder = save_chain(chain, tmp_path / "heads")
    markov(chain, per_head=per_head, int8=int8).add_to(folder)
    before, had = tensors_of(folder), config_of(folder)["scorer"]["rank"]
    out = tmp_path / "out"
    succeed("scorer", "shrink", folder, "--rank", had - 1, "--output", out)
    after, facts = tensors_of(out), config_of(out)["scorer"]
    assert (facts["rank"], facts["rank_trained"]) == (had - 1, had)
    assert set(after) == set(before)
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        if not name.startswith("scorer."):
            assert torch.equal(tensor, before[name])
    checkpoint = read_checkpoint(out)
    rows = checkpoint.output_rows
    assert build_scorer(checkpoint, 0, rows, rows, torch.float32) is not None


def scored(folder: Path) -> Path:
    """Heads with a term whose confidence was calibrated."""
    chain = make_chain(n_heads=3, stride=2)
    calibrated(markov(chain), [(1.0, 0.0)] * 6).add_to(save_chain(chain, folder))
    return folder


def test_what_was_fitted_to_the_term_goes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, out, again = scored(tmp_path / "folder"), tmp_path / "out", tmp_path / "again"
    succeed("scorer", "shrink", folder, "--rank", str(HAD // 2), "--output", out, "--json")
    report = json.loads(capfd.readouterr().out)
    assert 0.5 < report["kept"] < 1
    assert "confidence" in config_of(folder)["scorer"]
    assert "confidence" not in config_of(out)["scorer"]
    succeed("scorer", "shrink", out, "--rank", str(HAD // 4), "--output", again)
    assert config_of(again)["scorer"]["rank_trained"] == HAD


def test_bad_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("scorer", "shrink", "--output", tmp_path / "out", "--rank")
    assert fields(capfd, *words, str(HAD), scored(tmp_path / "scored")) == {"--rank"}
    assert fields(capfd, *words, "64", EMBEDDED) == {"scorer.kind"}  # a recurrent one
    plain = save_chain(make_chain(n_heads=3, stride=2), tmp_path / "plain")
    assert fields(capfd, *words, "4", plain) == {"scorer.kind"}
