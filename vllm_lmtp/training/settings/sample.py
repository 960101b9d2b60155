"""How texts are sampled from a model: the settings that training files share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SampleConfig:
    """How texts are sampled from a model.

    temperatures: shard j uses temperature j modulo their number. shards, texts_per_shard: how
    many texts. max_tokens: longest text, in tokens of the sampled model. seed: shard j uses
    seed + j. prompts: a JSON-lines file with a "prompt" in each line, or null for texts that start
    from BOS alone. stop_token_ids: tokens besides the model's EOS that end a text. dtype, batch,
    kv_cache_gib: vLLM's settings. workers: engines that share the shards; on a CPU each takes one
    thread, so that none waits for another. keep_rows: write the hidden states beside each shard.
    eager: do not compile the model, which pays only for long runs.
    """

    temperatures: tuple[float, ...]
    shards: int
    texts_per_shard: int
    max_tokens: int
    seed: int
    prompts: str | None = None
    stop_token_ids: tuple[int, ...] = ()
    top_p: float = 1.0
    dtype: str = "bfloat16"
    batch: int = 384
    kv_cache_gib: int = 2
    workers: int = 1
    keep_rows: bool = False
    eager: bool = False

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        counts = ("shards", "texts_per_shard", "max_tokens", "batch", "kv_cache_gib", "workers")
        wrong = {n: "at least 1" for n in counts if getattr(self, n) < 1}
        if not self.temperatures or min(self.temperatures) < 0:
            wrong["temperatures"] = "one or more numbers >= 0"
        if not 0 < self.top_p <= 1:
            wrong["top_p"] = "above 0 and at most 1"
        return wrong
