"""Two data-parallel ranks, balanced by vLLM; and one of them without a request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.distributed.checkpoint import Checkpoint
from tests.distributed.cluster import UNCOMPILED
from tests.distributed.layouts import CHAIN, CHECKPOINT, DATA, V1, V2, mark
from tests.distributed.mixture import save_mixture
from tests.engine.client import EngineHost
from tests.engine.test_chain import check, prompts_of
from tests.support.chain.target import Chain, save_chain


def with_model(model: str) -> pytest.MarkDecorator:
    cases = [
        pytest.param(runner, id=f"V{runner[0]}", marks=mark(DATA, runner, model))
        for runner in (V1, V2)
    ]
    return pytest.mark.parametrize("ranks", cases, indirect=True, scope="module")


@pytest.fixture(scope="module")
def ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineHost]:
    host = EngineHost(
        *request.param,
        tmp_path_factory.mktemp("ranks") / "host.log",
        processes=True,
        module="tests.distributed.ranks_host",
        variables=UNCOMPILED,
    )
    yield host
    host.close()


@with_model(CHAIN)
def test_both_ranks_draft_as_one_would(ranks: EngineHost, chain: Chain, chain_folder: Path) -> None:
    ranks.start(chain_folder, speculative_config="lmtp", max_num_batched_tokens=64, **DATA.args)
    prompts = prompts_of(chain, [5, 40, 41, 90, 7, 3, 20, 60])
    check(ranks, chain, prompts, 20, 6, 512)
    balanced = ranks.generate(prompts, {"max_tokens": 8, "temperature": 0, "detokenize": False})
    assert all(drafts > 0 for drafts in balanced["drafts_by_rank"])
    ranks.call("pin", rank=1)
    check(ranks, chain, prompts, 20, 6, 512)
    alone = ranks.generate(prompts, {"max_tokens": 8, "temperature": 0, "detokenize": False})
    assert alone["drafts_by_rank"][0] == 0 < alone["drafts_by_rank"][1]


@pytest.mark.skipif(
    torch.cuda.device_count() < 2,
    reason="vLLM 0.32 has no experts of data-parallel ranks on CPUs (NotImplementedError in "
    "forward_modular, with or without drafts); two GPUs would run it",
)
def test_a_rank_without_requests_keeps_step(chain: Chain, tmp_path: Path) -> None:
    """Experts are shared by all ranks in every step: one that took no part would stop the rest."""
    target = save_mixture(chain, tmp_path / "mixture")
    heads = save_chain(chain, tmp_path / "heads", "heads")
    host = EngineHost(
        *V1,
        tmp_path / "host.log",
        processes=True,
        module="tests.distributed.ranks_host",
        variables=UNCOMPILED,
    )
    try:
        host.start(
            target,
            speculative_config={"method": "lmtp", "model": str(heads)},
            max_num_batched_tokens=64,
            **DATA.args,
        )
        prompts = prompts_of(chain, [5, 40, 41, 90])
        for rank in (1, 0, None):
            host.call("pin", rank=rank)
            check(host, chain, prompts, 20, 6, 512)
    finally:
        host.close()


@with_model(CHECKPOINT)
def test_the_checkpoint_writes_as_without_drafts(ranks: EngineHost, checkpoint: Checkpoint) -> None:
    ranks.start(
        checkpoint.folder, speculative_config="lmtp", max_num_batched_tokens=64, **DATA.args
    )
    ranks.call("pin", rank=None)
    checkpoint.check(ranks)
