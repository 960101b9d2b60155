"""An adapter of the output matrix: each row of logits must find its own request's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.engine.client import EngineError, EngineHost, counted
from tests.engine.test_real import CHECKPOINT, OPENINGS, asked
from tests.features.made.adapters import adapted, save_adapter
from tests.features.operations import host as host  # pytest finds fixtures by name
from tests.features.operations import start_host
from tests.support.chain.target import Counters
from tests.support.transformers_oracle import Oracle

Says = Callable[[str], None]
ENGINE: dict[str, Any] = {
    "speculative_config": "lmtp",
    "enable_lora": True,
    "max_lora_rank": 8,
    "max_num_batched_tokens": 64,
}
ROWS = "does not broadcast with previously seen size"
"""What V2's logits and their adapters say of each other on CPUs, once there are drafts."""


@pytest.mark.feature("LoRA", "an adapter of the output matrix, `lm_head`")
def test_output_matrix(host: EngineHost, tmp_path: Path, says: Says) -> None:
    """V1 tells the logits' rows of drafts whose they are; V2 counts one row a request."""
    folder = save_adapter(tmp_path / "adapter", 7, output_matrix=True)
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    prompts, greedy = asked(host, [tokenizer(text)["input_ids"] for text in OPENINGS])

    def answers(host: EngineHost) -> dict[str, Any]:
        host.start(CHECKPOINT, **ENGINE)
        adapters = [("a", 1, str(folder))] * len(prompts)
        return host.call("generate", prompts=prompts, params=greedy, adapters=adapters)

    if host.runner == 2:
        kind = "v2-async" if host.asynchronous else "v2"
        other = start_host(kind, tmp_path / "log")  # which dies of it
        with pytest.raises(EngineError, match=ROWS):
            answers(other)
        other.close()
        says(f'vLLM stops: "{ROWS}", if its `--lora-target-modules` have `lm_head`')
        return
    oracle = adapted(Oracle(CHECKPOINT), folder)
    expected = Counters.zero(6)
    reply = answers(host)
    for prompt, (tokens,) in zip(prompts, reply["tokens"], strict=True):
        output, counters = oracle.expect(prompt, greedy["max_tokens"])
        assert tokens == output
        expected += counters
    assert counted(reply["counters"], 6, 2) == expected
    says("exact")
