"""A folder of heads named alone, as in `vllm serve HEADS`, serves the target that it states."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.client import EngineHost, counted
from tests.engine.test_chain import GREEDY, prompts_of
from tests.support.chain.target import Chain, Counters, simulate
from tests.support.random_models import succeed


@pytest.mark.parametrize("form", ["heads", "stage1"])
def test_one_argument(
    host: EngineHost, chain: Chain, chain_folder: Path, tmp_path: Path, form: str
) -> None:
    plain, heads, stage1 = (tmp_path / name for name in ("plain", "heads", "stage1"))
    succeed("export", chain_folder, plain)
    succeed("convert", "--to", "heads", chain_folder, heads, "--target", plain)
    succeed("convert", "--to", "stage1", heads, stage1, "--target", plain, "--alone")
    host.start(tmp_path / form, speculative_config={})
    prompts = prompts_of(chain, [2, 90, 5, 40], seed=2)
    reply = host.generate(prompts, {**GREEDY, "max_tokens": 30})
    expected = Counters.zero(6)
    for prompt, outputs in zip(prompts, reply["tokens"], strict=True):
        output, counters = simulate(chain, prompt, 30, 6)
        assert outputs == [output]
        expected += counters
    assert counted(reply["counters"], 6, 2) == expected
