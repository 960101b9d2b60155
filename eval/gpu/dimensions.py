"""The sizes of the six models of the L-MTP paper (arXiv 2505.17505)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dimensions:
    """H and V of a target, and its heads: n of stride k, each one residual block."""

    hidden: int
    vocab: int
    n_heads: int = 3
    stride: int = 2


MODELS = {
    "llama-3.2-3b": Dimensions(3072, 128256),
    "llama-3.1-8b": Dimensions(4096, 128256),
    "qwen2.5-3b": Dimensions(2048, 151936),
    "qwen2.5-7b": Dimensions(3584, 152064),
    "gemma3-4b": Dimensions(2560, 262208),
    "gemma3-12b": Dimensions(3840, 262208),
    "tiny": Dimensions(64, 512),
}
"""`tiny` is for rehearsals."""
