"""The exact-chain target: a model whose next token, and whose every draft, is known in advance.

A Qwen2 whose layers add nothing: the final hidden state is the embedding of the current token, so
the next token is a fixed function f of it, a single random cycle through the vocabulary. A head
that maps token x to f applied 1 + k(i + 1) times predicts perfectly, *if* it reads the row of the
right position. Some heads' entries are made wrong on purpose, so that acceptance varies. The
simulator below then knows every counter; a stale, mixed or shifted hidden state changes them,
though the output stays right.

Embeddings are rows of random signs, so every logit is a whole number times a power of two: exact in
float32 in whatever order it is summed, and a tie is a tie everywhere.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support.copy_search import CopiedDraft
from vllm_lmtp.method.copying import DEFAULT_ACCURACY, DEFAULT_LOG_ODDS, Origin

HIDDEN = 128
VOCAB = 509  # prime, so that no tensor-parallel size divides it
VOTE = 3 / 32  # entries of the output matrices, so that a vote counts 12 and chance about 1


@dataclass(frozen=True)
class Chain:
    """f as a list, and for each head its (partly wrong) map from row token to predicted token."""

    stride: int
    successor: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]

    def walk(self, start: int, steps: int) -> list[int]:
        """`start` and the `steps` tokens after it."""
        tokens = [start]
        for _ in range(steps):
            tokens.append(self.successor[tokens[-1]])
        return tokens

    def drafted(self, head: int, row_token: int, previous: int) -> int:
        """What a head drafts that reads the row of `row_token`, to follow `previous`."""
        return self.heads[head][row_token]

    def confidence(self, place: int, row_token: int, previous: int) -> float:
        """The probability that a place is given in a draft, uncalibrated: the softmax of the votes
        of its head that reads the row of `row_token`, at the token it drafts."""
        return self.stated(place, max(self.opinion(place, row_token, previous).values()))

    def opinion(self, place: int, row_token: int, previous: int) -> dict[int, float]:
        """The probability of every token that can be drafted at a place: the softmax of the votes
        of its head that reads the row of `row_token`."""
        head = place // self.stride
        votes = embeddings()[row_token] @ rows_that_vote(embeddings() * VOTE, self.heads[head]).T
        return dict(enumerate(votes.double().softmax(dim=-1).tolist()))

    def stated(self, place: int, share: float) -> float:
        """The confidence that is stated of a token of some probability."""
        return share


def make_chain(n_heads: int, stride: int, wrong: float = 0.25, seed: int = 0) -> Chain:
    """A random cycle, and heads of which a fraction `wrong` of the entries are permuted."""
    rng = random.Random(seed)
    order = list(range(VOCAB))
    rng.shuffle(order)
    successor = [0] * VOCAB
    for here, there in zip(order, order[1:] + order[:1], strict=True):
        successor[here] = there
    heads = []
    for head in range(n_heads):
        exact = []
        for token in range(VOCAB):
            for _ in range(1 + stride * (head + 1)):
                token = successor[token]
            exact.append(token)
        spoilt = rng.sample(range(VOCAB), int(wrong * VOCAB))
        values = [exact[i] for i in spoilt]
        for i, value in zip(spoilt, values[1:] + values[:1], strict=True):
            exact[i] = value
        heads.append(tuple(exact))
    return Chain(stride, tuple(successor), tuple(heads))


def draft_vocabulary(size: int = 401, seed: int = 0) -> tuple[int, ...]:
    """Tokens that heads may draft, in order: a random part of all."""
    return tuple(sorted(random.Random(seed).sample(range(VOCAB), size)))


def served(chain: Chain, vocabulary: Sequence[int]) -> Chain:
    """The chain as heads serve it that can draft these tokens only: the best of them is drafted,
    the smaller of two equals."""
    embed = embeddings()
    heads = []
    for head in chain.heads:
        votes = embed @ rows_that_vote(embed * VOTE, head)[list(vocabulary)].T
        heads.append(tuple(vocabulary[i] for i in votes.argmax(dim=-1).tolist()))
    return replace(chain, heads=tuple(heads))


def save_chain(
    chain: Chain,
    folder: Path,
    layout: str = "stage1",
    *,
    vocabulary: Sequence[int] | None = None,
    int8: bool = False,
) -> Path:
    """Write the chain as a checkpoint.

    layout: "stage1", "plain" or "heads" (heads only). vocabulary: the tokens that the heads draft,
    all where left out. int8: output matrices of the heads as int8, every row with another scale.
    """
    folder.mkdir(parents=True, exist_ok=True)
    embed = embeddings()
    tensors: dict[str, torch.Tensor] = {}
    if layout != "heads":
        tensors |= {
            "model.embed_tokens.weight": embed,
            "model.norm.weight": torch.ones(HIDDEN),
            "lm_head.weight": rows_that_vote(target_votes(), chain.successor),
        }
        tensors |= idle_layers(HIDDEN)
    if layout != "plain":
        for i, head in enumerate(chain.heads):
            prefix = f"heads.heads.{i}"
            tensors[f"{prefix}.resblock.0.l_proj.weight"] = torch.zeros(HIDDEN, HIDDEN)
            tensors[f"{prefix}.resblock.0.l_proj.bias"] = torch.zeros(HIDDEN)
            output = rows_that_vote(embed * VOTE, head)
            if vocabulary is not None:
                output = output[list(vocabulary)].contiguous()
            if int8:
                output, tensors[f"{prefix}.lm_head.scale"] = _quantised(output)
            tensors[f"{prefix}.lm_head.weight"] = output
        if vocabulary is not None:
            tensors["heads.d2t"] = torch.tensor(vocabulary) - torch.arange(len(vocabulary))
    config = {
        "architectures": ["Qwen2ForCausalLM" if layout == "plain" else "LMTPModel"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "vocab_size": VOCAB,
    }
    if layout != "heads":
        config |= idle_config(HIDDEN)
    if layout != "plain":
        config |= {
            "n_head": len(chain.heads),
            "head_num_layers": 1,
            "head_type": "lmtp",
            "skip_token": chain.stride,
        }
        if vocabulary is not None:
            config["draft_vocab_size"] = len(vocabulary)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def idle_layers(hidden: int) -> dict[str, torch.Tensor]:
    """Two Qwen2 layers that add nothing to the embedding of a token."""
    shapes = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.q_proj.bias": (hidden,),
        "self_attn.k_proj.weight": (hidden, hidden),
        "self_attn.k_proj.bias": (hidden,),
        "self_attn.v_proj.weight": (hidden, hidden),
        "self_attn.v_proj.bias": (hidden,),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (hidden, hidden),
        "mlp.up_proj.weight": (hidden, hidden),
        "mlp.down_proj.weight": (hidden, hidden),
    }
    tensors = {}
    for layer in range(2):
        for name, shape in shapes.items():
            tensors[f"model.layers.{layer}.{name}"] = torch.zeros(shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = torch.ones(hidden)
    return tensors


def idle_config(hidden: int) -> dict[str, Any]:
    """What config.json says of `idle_layers`."""
    return {
        "intermediate_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-12,  # too little to move a row of signs
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }


def embeddings() -> torch.Tensor:
    """[V, H] float32, random signs: the token embeddings of every chain."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 2, (VOCAB, HIDDEN), generator=generator) * 2.0 - 1.0


def target_votes() -> torch.Tensor:
    """[V, H], what the target's row for the token after x looks like: x's embedding, a little
    blurred, since top-k sampling may treat ties as it likes."""
    generator = torch.Generator().manual_seed(8)
    return embeddings() * VOTE + 0.01 * torch.randn(VOCAB, HIDDEN, generator=generator)


def rows_that_vote(votes: torch.Tensor, mapping: tuple[int, ...]) -> torch.Tensor:
    """The matrix whose row mapping[x] is votes[x], so that reading x votes for mapping[x]."""
    matrix = torch.empty_like(votes)
    matrix[torch.tensor(mapping)] = votes
    return matrix


def _quantised(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same numbers as int8 and scales, exactly: powers of two move from one to the other."""
    powers = 2.0 ** (torch.arange(len(matrix)) % 5)
    return (matrix * 32 * powers.unsqueeze(1)).to(torch.int8), 1 / (32 * powers)


@dataclass
class Counters:
    """What vLLM and this package count, as the simulator expects it."""

    num_drafts: int = 0
    drafted_per_pos: list[int] = field(default_factory=list)
    accepted_per_pos: list[int] = field(default_factory=list)
    cold: int = 0
    copied: int = 0
    copied_accepted: int = 0

    @classmethod
    def zero(cls, places: int) -> Counters:
        return cls(0, [0] * places, [0] * places, 0)

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            self.num_drafts + other.num_drafts,
            [a + b for a, b in zip(self.drafted_per_pos, other.drafted_per_pos, strict=True)],
            [a + b for a, b in zip(self.accepted_per_pos, other.accepted_per_pos, strict=True)],
            self.cold + other.cold,
            self.copied + other.copied,
            self.copied_accepted + other.copied_accepted,
        )


class Walk:
    """One request served greedily, step by step, and what is counted.

    Args:
        places: drafts a step at most. cut: a draft ends before the place at which the product of
            its confidences falls below this; of a request alone, where it copies.
        copy_odds: of a match of 1, 2, ... tokens of the text with itself; none where drafts do not
            copy. copy_accuracy: how often such a match is right.
        cached, padded: as in `simulate`. bound: drafts verified a step at most; None for all.
    """

    def __init__(
        self,
        chain: Chain,
        prompt: Sequence[int],
        max_tokens: int,
        places: int,
        *,
        max_model_len: int = 1024,
        cached: int = 0,
        padded: bool = False,
        stop_token: int | None = None,
        cut: float = 0.0,
        copy_odds: Sequence[float] = DEFAULT_LOG_ODDS,
        copy_accuracy: Sequence[float] = DEFAULT_ACCURACY,
        bound: int | None = None,
    ) -> None:
        self.bound = bound
        self.chain, self.tokens, self.cached, self.cut = chain, list(prompt), cached, cut
        self.copy_odds, self.copy_accuracy = copy_odds, copy_accuracy
        self.max_tokens, self.max_model_len, self.stop_token = max_tokens, max_model_len, stop_token
        self.output: list[int] = []
        self.counters = Counters.zero(places)
        if padded:
            self.counters.num_drafts += 1
            self.counters.drafted_per_pos = [1] * places
            self.counters.cold += 1
        self.ended = self._emit(1)

    def _emit(self, count: int) -> bool:
        """Append `count` true tokens, up to the end of the request; True when it ended."""
        for _ in range(count):
            token = self.chain.successor[self.tokens[-1]]
            self.tokens.append(token)
            self.output.append(token)
            full = len(self.tokens) >= self.max_model_len
            if len(self.output) >= self.max_tokens or full or token == self.stop_token:
                return True
        return False

    def step(self, wanted: int) -> None:
        """Draft `wanted` tokens at most, verify them, and emit what follows."""
        chain, tokens, counters = self.chain, self.tokens, self.counters
        last = len(tokens) - 2  # the newest token's own position is not computed yet
        known = last + 1 - self.cached
        wanted = min(wanted, self.max_model_len - 1 - (last + 1) - 1)
        truth = chain.walk(tokens[-1], max(wanted, 0))[1:]
        draft: list[int] = []
        copy = CopiedDraft(tokens, max(wanted, 0), self.copy_odds, VOCAB)
        spared = copy.decides_all()
        survival = 1.0
        for place in range(wanted):
            head, inner = divmod(place, chain.stride)
            lag = min(chain.stride - 1 - inner, known - 1)
            previous = draft[-1] if draft else tokens[-1]
            row = tokens[last - lag]
            weight = copy.weight(place)
            if not weight:
                token = chain.drafted(head, row, previous)
                copy.leave_to_heads(place, token)
                sure = chain.confidence(place, row, previous) if self.cut else 1.0
            else:
                token, share, from_text = copy.fill(place, chain.opinion(place, row, previous))
                sure = (1 - weight) * chain.stated(place, share) + weight * from_text
                sure = copy.accuracy(place, self.copy_accuracy) if spared else sure
            survival *= sure if self.cut else 1.0
            if survival < self.cut:
                break
            draft.append(token)
        draft = draft[: self.bound]
        accepted = 0
        while accepted < len(draft) and draft[accepted] == truth[accepted]:
            accepted += 1
        if draft:
            counters.num_drafts += 1
            counters.cold += known < chain.stride
            for place in range(len(draft)):
                counters.drafted_per_pos[place] += 1
            for place in range(accepted):
                counters.accepted_per_pos[place] += 1
            counters.copied += copy.origins[: len(draft)].count(Origin.TEXT)
            counters.copied_accepted += copy.origins[:accepted].count(Origin.TEXT)
        self.ended = self._emit(accepted + 1)


def simulate(
    chain: Chain, prompt: list[int], max_tokens: int, num_drafts: int, **options: Any
) -> tuple[list[int], Counters]:
    """Output tokens and counters of one request served greedily.

    options: max_model_len; cached, prompt tokens that come from the prefix cache; padded, whether
    vLLM pads the request's first step with placeholder drafts, as it does when one token is left to
    compute; stop_token; cut, below which a draft loses its tail; bound, drafts verified at most.
    """
    walk = Walk(chain, prompt, max_tokens, num_drafts, **options)
    while not walk.ended:
        walk.step(num_drafts)
    return walk.output, walk.counters


def simulate_by_batch(
    chain: Chain,
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    places: int,
    wanted: Sequence[int],
) -> tuple[list[list[int]], Counters]:
    """Outputs and counters of requests that start together, drafts a step by their number.

    limits: tokens of each request. wanted: drafts for a batch of 1, 2, ... requests; the batch of a
    step decides the drafts that it makes, which are verified in the next.
    """
    walks = [Walk(chain, p, n, places) for p, n in zip(prompts, limits, strict=True)]
    drafts = wanted[len(walks) - 1]
    while live := [walk for walk in walks if not walk.ended]:
        for walk in live:
            walk.step(drafts)
        drafts = wanted[len(live) - 1]
    return [walk.output for walk in walks], sum(
        (walk.counters for walk in walks), Counters.zero(places)
    )
