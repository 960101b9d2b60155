"""The fields of the training files in configs/train/.

Relative paths are taken from the current directory. Ranges are checked in `faults`, which
`parse.parse` turns into errors.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_lmtp.training.sample_config import SampleConfig


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a cosine schedule to zero.

    lr: peak learning rate. warmup: share of the steps in which the rate rises. steps: optimizer
    steps. batch_rows: rows a step. save_every: steps between resumable checkpoints. bf16:
    autocast (parameters stay float32). compile: torch.compile, which needs a C++ compiler.
    """

    lr: float
    warmup: float
    steps: int
    batch_rows: int
    save_every: int
    weight_decay: float = 0.0
    beta2: float = 0.999
    grad_clip: float = 1.0
    bf16: bool = False
    compile: bool = False

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        wrong = {
            n: "at least 1" for n in ("steps", "batch_rows", "save_every") if getattr(self, n) < 1
        }
        if self.lr <= 0:
            wrong["lr"] = "above 0"
        for name in ("warmup", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                wrong[name] = "from 0 to below 1"
        return wrong


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a Llama backbone with tied embeddings."""

    vocab_size: int
    hidden_size: int
    layers: int
    attention_heads: int
    intermediate_size: int
    max_positions: int

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        wrong = {n: "at least 1" for n, v in vars(self).items() if v < 1}
        if not wrong and self.hidden_size % self.attention_heads:
            wrong["hidden_size"] = f"a multiple of attention_heads ({self.attention_heads})"
        if not wrong and self.vocab_size < 256 + 3:
            wrong["vocab_size"] = "at least 259: all bytes, BOS, EOS and padding"
        return wrong


@dataclass(frozen=True)
class HeadsConfig:
    """n_head extra heads with stride skip_token, the names that config.json uses on disk.

    logits_budget: most logits (rows x vocabulary) of one head held at once.
    """

    n_head: int
    skip_token: int
    logits_budget: int = 1 << 24

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        return {n: "at least 1" for n, v in vars(self).items() if v < 1}


@dataclass(frozen=True)
class BackboneRun:
    """A small backbone trained from nothing on a teacher's texts.

    teacher: folder of the model whose texts are learnt; null when the command names it.
    output: folder of the run; the model is written to its `model` folder. row_tokens: length of a
    training row. held_out: texts kept for the held-out loss.
    """

    run: str
    model_name: str
    output: str
    seed: int
    threads: int
    row_tokens: int
    held_out: int
    corpus: SampleConfig
    model: ModelConfig
    optim: OptimConfig
    teacher: str | None = None


@dataclass(frozen=True)
class Stage1Run:
    """Leap heads trained on a frozen backbone's own texts (arXiv 2505.17505, stage 1).

    backbone: a folder with the backbone, with or without heads, which are dropped. output: folder
    of the run; the checkpoint is written to its `model` folder. row_tokens: longest training row;
    longer texts are cut. held_out: texts kept for the accuracies.
    """

    run: str
    model_name: str
    backbone: str
    output: str
    seed: int
    threads: int
    row_tokens: int
    held_out: int
    heads: HeadsConfig
    own_text: SampleConfig
    optim: OptimConfig
