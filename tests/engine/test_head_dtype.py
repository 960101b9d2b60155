"""Heads held in another dtype than the target's, in a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.client import EngineHost
from tests.engine.test_chain import check, prompts_of
from tests.support.chain.target import Chain


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "fp8"])
def test_heads_of_another_dtype(
    host: EngineHost, chain: Chain, chain_folder: Path, dtype: str
) -> None:
    """The chain's matrices have entries of one size, which each of these can hold exactly."""
    host.start(chain_folder, speculative_config={"method": "lmtp", "lmtp_head_dtype": dtype})
    check(host, chain, prompts_of(chain, [5, 40]), 20, 6, 512)
