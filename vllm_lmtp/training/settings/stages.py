"""The fields of the training files in configs/train/.

Relative paths are taken from the current directory. Ranges are checked in `faults`, which
`parse.parse` turns into errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vllm_lmtp.training.settings.sample import SampleConfig


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a cosine schedule to zero.

    lr: peak learning rate. warmup: share of the steps in which the rate rises. batch_rows: rows
    that one device reads at once. accumulate: how often it does so before a step, so that a step
    takes batch_rows x accumulate x devices rows; its gradient is the mean over the passes. steps:
    optimizer steps, or epochs: passes through the data, exactly one of both. save_every: steps
    between resumable checkpoints. bf16: autocast, on devices that have bfloat16 (devices.py); what
    is trained stays float32. compile: torch.compile, which needs a C++ compiler.
    """

    lr: float
    warmup: float
    batch_rows: int
    save_every: int
    steps: int | None = None
    epochs: float | None = None
    accumulate: int = 1
    weight_decay: float = 0.0
    beta2: float = 0.999
    grad_clip: float = 1.0
    bf16: bool = False
    compile: bool = False

    def step_rows(self, devices: int) -> int:
        """Rows that one optimizer step takes."""
        return self.batch_rows * self.accumulate * devices

    def total_steps(self, rows: int, devices: int) -> int:
        """Optimizer steps of the whole run over `rows` rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return math.ceil(self.epochs * math.ceil(rows / self.step_rows(devices)))

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        counts = ("batch_rows", "save_every", "accumulate")
        wrong = {n: "at least 1" for n in counts if getattr(self, n) < 1}
        if (self.steps is None) == (self.epochs is None):
            wrong["steps"] = "a number of steps, or of epochs: exactly one of both fields"
        if self.steps is not None and self.steps < 1:
            wrong["steps"] = "at least 1"
        if self.epochs is not None and self.epochs <= 0:
            wrong["epochs"] = "above 0"
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

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        if self.optim.steps is None:
            return {"optim": "steps and no epochs: rows are packed anew for each pass"}
        return {}


@dataclass(frozen=True)
class Stage1Run:
    """Leap heads trained on a frozen backbone's own texts (arXiv 2505.17505, stage 1).

    backbone: a folder with the backbone, with or without heads, which are dropped, or a Hugging
    Face id. output: folder of the run; the checkpoint is written to its `model` folder. dataset: a
    folder of `vllm-lmtp distill`, or own_text: how the backbone writes its own texts, exactly one
    of both. limit: texts drawn from them at random, or null for all. row_tokens: longest training
    row; longer texts are cut. held_out: texts kept for the accuracies.
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
    optim: OptimConfig
    dataset: str | None = None
    own_text: SampleConfig | None = None
    limit: int | None = None

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        return _text_faults(self)


@dataclass(frozen=True)
class LoraConfig:
    """A plain LoRA adapter: W + (alpha / r) B A. dropout: of what A reads, while training."""

    r: int
    alpha: float
    dropout: float = 0.0

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        wrong = {}
        if self.r < 1:
            wrong["r"] = "at least 1"
        if self.alpha <= 0:
            wrong["alpha"] = "above 0"
        if not 0 <= self.dropout < 1:
            wrong["dropout"] = "from 0 to below 1"
        return wrong


@dataclass(frozen=True)
class Stage2Run:
    """Backbone and heads adapted together by LoRA (arXiv 2505.17505, stage 2).

    stage1: a folder with backbone and heads, or its Hugging Face id; the adapter names it as its
    base. output: folder of
    the run; the adapter is written to its `adapter` folder. head_weight: share of the heads' losses
    beside the next-token loss. logits_budget: most logits (rows x vocabulary) of one head held at
    once. dataset: a folder of `vllm-lmtp distill`, or own_text: how the stage-1 model writes its
    own texts, exactly one of both. limit: texts drawn from them at random, or null for all.
    row_tokens: longest training row; longer texts are cut. held_out: texts kept for the losses and
    accuracies.
    """

    run: str
    stage1: str
    output: str
    seed: int
    threads: int
    row_tokens: int
    held_out: int
    head_weight: float
    lora: LoraConfig
    optim: OptimConfig
    dataset: str | None = None
    own_text: SampleConfig | None = None
    limit: int | None = None
    logits_budget: int = 1 << 24

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        wrong = _text_faults(self)
        if self.head_weight < 0:
            wrong["head_weight"] = "0 or above"
        if self.logits_budget < 1:
            wrong["logits_budget"] = "at least 1"
        return wrong


def _text_faults(run: Stage1Run | Stage2Run) -> dict[str, str]:
    counts = ("threads", "row_tokens", "held_out")
    wrong = {n: "at least 1" for n in counts if getattr(run, n) < 1}
    if run.limit is not None and run.limit < 1:
        wrong["limit"] = "at least 1, or null"
    if (run.dataset is None) == (run.own_text is None):
        wrong["dataset"] = "a folder, or the field own_text: exactly one of both"
    return wrong
