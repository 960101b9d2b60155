"""A small target whose next-token distribution is known, and heads that nearly know it.

As the exact chain, but the next token is a matter of chance: its distribution depends on the
current token alone. Heads vote a little at random; a Markov term holds the target's own votes, more
or less blurred.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.support.chain.target import idle_config, idle_layers

VOCAB, HIDDEN = 64, 128
HEADS, STRIDE = 2, 2


def embeddings() -> torch.Tensor:
    """[V, H] float32, random signs."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 2, (VOCAB, HIDDEN), generator=generator) * 2.0 - 1.0


def votes() -> torch.Tensor:
    """[V, H], the target's output matrix; its logits have a deviation of 1.5."""
    return _noise(2, 1.5)


def save_dice(folder: Path, blur: float, drafted: int = VOCAB, sure: float = 1.0) -> Path:
    """Write target, heads and scorer as one folder.

    blur: deviation of the errors in the draft's logits; 0 for drafts distributed as the target.
    sure: what the draft's logits are multiplied by; below 1 the draft is less sure than the target.
    drafted: tokens that the heads can draft, every one from this part of the vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(5))[:drafted].sort()
    ids = tokens.values
    tensors = {
        "model.embed_tokens.weight": embeddings(),
        "model.norm.weight": torch.ones(HIDDEN),
        "lm_head.weight": votes(),
        "scorer.markov.embed": torch.cat([embeddings()[ids], torch.zeros(1, HIDDEN)]),
        "scorer.markov.output": (sure * votes() + _noise(3, blur))[ids],
        **idle_layers(HIDDEN),
    }
    for head in range(HEADS):
        prefix = f"heads.heads.{head}"
        tensors[f"{prefix}.resblock.0.l_proj.weight"] = torch.zeros(HIDDEN, HIDDEN)
        tensors[f"{prefix}.resblock.0.l_proj.bias"] = torch.zeros(HIDDEN)
        tensors[f"{prefix}.lm_head.weight"] = _noise(10 + head, blur)[ids]
    config = {
        "architectures": ["LMTPModel"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "vocab_size": VOCAB,
        "n_head": HEADS,
        "head_num_layers": 1,
        "head_type": "lmtp",
        "skip_token": STRIDE,
        "scorer": {"kind": "markov"},
    }
    if drafted < VOCAB:
        tensors["heads.d2t"] = ids - torch.arange(drafted)
        config["draft_vocab_size"] = drafted
    (folder / "config.json").write_text(json.dumps(config | idle_config(HIDDEN)))
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def next_token(temperature: float, top_k: int = VOCAB, top_p: float = 1.0) -> np.ndarray:
    """[V, V]: row x is the distribution of the token after x."""
    logits = (embeddings() @ votes().T).double().numpy() / temperature
    order = np.argsort(-logits, axis=1)
    ranked = np.exp(np.take_along_axis(logits, order, axis=1))
    ranked[:, top_k:] = 0
    ranked /= ranked.sum(axis=1, keepdims=True)
    ranked[ranked.cumsum(axis=1) - ranked >= top_p] = 0
    ranked /= ranked.sum(axis=1, keepdims=True)
    probabilities = np.zeros_like(ranked)
    np.put_along_axis(probabilities, order, ranked, axis=1)
    return probabilities


def p_value(transitions: np.ndarray, probabilities: np.ndarray) -> float:
    """Chi-square test that tokens and those after them, [N, 2], follow distributions [V, V].

    After every token, those that are expected less often than five times count as one.
    """
    observed = np.zeros((VOCAB, VOCAB))
    np.add.at(observed, (transitions[:, 0], transitions[:, 1]), 1)
    if observed[probabilities == 0].any():
        return 0.0
    statistic, freedom = 0.0, 0
    for seen, expected in zip(observed, observed.sum(axis=1)[:, None] * probabilities, strict=True):
        often = expected >= 5
        cells = [*zip(seen[often], expected[often], strict=True)]
        if expected[~often].sum() >= 5:
            cells.append((seen[~often].sum(), expected[~often].sum()))
        statistic += sum((s - e) ** 2 / e for s, e in cells)
        freedom += max(len(cells) - 1, 0)
    return _beyond(statistic, freedom)


def p_value_of_few(transitions: np.ndarray, probabilities: np.ndarray) -> float:
    """As `p_value`, for some hundred tokens: by how likely each was after the one before it, the
    likeliest, the next, the two after that, four, eight, and the others."""
    order = np.argsort(-probabilities, axis=1)
    classes = [0, 1, 2, 4, 8, 16]
    shares = np.take_along_axis(probabilities, order, axis=1)[transitions[:, 0]]
    expected = np.add.reduceat(shares, classes, axis=1).sum(axis=0)
    places = np.argmax(order[transitions[:, 0]] == transitions[:, 1:], axis=1)
    observed = np.histogram(places, [*classes, VOCAB])[0]
    return _beyond(float(((observed - expected) ** 2 / expected).sum()), len(classes) - 1)


def _beyond(statistic: float, freedom: int) -> float:
    """How likely chi-square exceeds this."""
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def _noise(seed: int, deviation: float) -> torch.Tensor:
    """[V, H] that gives a row of signs logits of this deviation."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(VOCAB, HIDDEN, generator=generator) * deviation / HIDDEN**0.5
