"""The package's own checkpoint, whatever the ranks: output as without drafts, counters as known."""

from __future__ import annotations

from tests.engine.client import EngineHost, counted
from tests.engine.test_real import CHECKPOINT, GREEDY, OPENINGS
from tests.support.chain.target import Counters
from tests.support.transformers_oracle import Oracle


class Checkpoint:
    """Prompts, and what transformers writes to them and recomputes of the drafts."""

    def __init__(self) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
        oracle = Oracle(CHECKPOINT)
        self.folder = CHECKPOINT
        self.prompts = [tokenizer(text)["input_ids"] for text in OPENINGS]
        self.outputs, self.counters = [], Counters.zero(6)
        for prompt in self.prompts:
            output, counters = oracle.expect(prompt, GREEDY["max_tokens"])
            self.outputs.append([output])
            self.counters += counters
        self.texts = [
            tokenizer.decode(output, skip_special_tokens=True).strip() for (output,) in self.outputs
        ]

    def check(self, host: EngineHost) -> None:
        reply = host.generate(self.prompts, {**GREEDY, "detokenize": False})
        assert reply["tokens"] == self.outputs
        assert counted(reply["counters"], 6, 2) == self.counters
