"""Folders that went through every converter serve as what they say they are, counter by counter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.client import EngineHost
from tests.engine.test_chain import check, prompts_of
from tests.support.adapters import save_damaged
from tests.support.chain.target import Chain, make_chain, save_chain
from tests.support.medusa_heads import save_medusa
from tests.support.random_models import succeed
from vllm_lmtp.formats.checkpoint import read_checkpoint

Served = tuple[Path, dict[str, str]]


def merged(chain: Chain, folder: Path) -> Served:
    """Stage 1 and adapter: neither is the chain, their sum is."""
    stage1, adapter = save_damaged(save_chain(chain, folder / "chain"), folder)
    succeed("merge", stage1, adapter, folder / "out")
    return folder / "out", {"method": "lmtp"}


def apart(chain: Chain, folder: Path) -> Served:
    """Stage 1 taken apart: the exported backbone, its heads beside it."""
    stage1 = save_chain(chain, folder / "chain")
    succeed("export", stage1, folder / "plain")
    succeed("convert", "--to", "heads", stage1, folder / "heads")
    return folder / "plain", {"method": "lmtp", "model": str(folder / "heads")}


def together(chain: Chain, folder: Path) -> Served:
    """Heads of a folder of their own put onto a plain model."""
    heads = save_chain(chain, folder / "heads", "heads")
    plain = save_chain(chain, folder / "plain", "plain")
    succeed("convert", "--to", "stage1", heads, folder / "out", "--target", plain)
    return folder / "out", {"method": "lmtp"}


@pytest.mark.parametrize("convert", [merged, apart, together])
def test_the_chain_survives(
    host: EngineHost, chain: Chain, tmp_path: Path, convert: Callable[[Chain, Path], Served]
) -> None:
    target, spec = convert(chain, tmp_path)
    host.start(target, speculative_config=spec, max_num_batched_tokens=64)
    counters = check(host, chain, prompts_of(chain, [1, 5, 40, 90]), 20, 6, 512)
    assert all(0 < n < counters.num_drafts for n in counters.accepted_per_pos)


STRIDES = {"v1": (1, 2, 3, 4, 5), "v2": (1, 2, 3, 4, 5), "v2-async": (2,)}


def test_medusa_heads_with_every_stride(
    host: EngineHost, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Medusa's head j predicts t + 2 + j; every K-th of five is a leap head of stride K."""
    for every in STRIDES[request.node.callspec.params["host"]]:
        medusa = make_chain(5, 1, seed=50 + every)
        chain = Chain(every, medusa.successor, medusa.heads[every - 1 :: every])
        folder = tmp_path / str(every)
        theirs, heads = save_medusa(medusa, folder / "medusa"), folder / "heads"
        succeed("convert", "--from-medusa", theirs, heads, "--every", str(every))
        places = read_checkpoint(heads).schedule.max_drafts
        assert places == (5 // every) * every
        target = save_chain(chain, folder / "plain", "plain")
        spec = {"method": "lmtp", "model": str(heads)}
        host.start(target, speculative_config=spec, max_num_batched_tokens=64)
        counters = check(host, chain, prompts_of(chain, [1, 5, 40, 90]), 20, places, 512)
        assert all(0 < n < counters.num_drafts for n in counters.accepted_per_pos)
