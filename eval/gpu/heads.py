"""Leap heads with random weights and without vLLM, for measuring: one rank, the same kernels."""

from __future__ import annotations

import torch
from torch.nn.functional import linear, silu

from vllm_lmtp.eval.gpu.dimensions import Dimensions
from vllm_lmtp.formats.read import dequantised
from vllm_lmtp.formats.scorer_tensors import MARKOV
from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.history import History
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.method.scorer import MarkovScorer, RecurrentScorer, Scorer
from vllm_lmtp.worker.head_dtype import QUANTISED, quantise

CHUNK = 8192
"""Rows of a matrix that are made, or multiplied in float64, at once."""


class RandomHeads:
    """What backward decoding asks of heads (`backward.Heads`).

    Args:
        size: of the target and its heads.
        rows: of each output matrix: V, or the draft vocabulary's size.
        held: the model's dtype by name, or "int8" or "fp8".
        kernels: use the kernels; without them int8 and fp8 are undone first, as on CPUs.
    """

    def __init__(
        self,
        size: Dimensions,
        rows: int,
        dtype: torch.dtype,
        held: str,
        kernels: bool,
        device: torch.device,
    ) -> None:
        self.kernels = kernels
        seeded = torch.Generator(device).manual_seed(0)
        scale = size.hidden**-0.5

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=seeded, device=device) * scale

        self.blocks = [
            (normal(size.hidden, size.hidden).to(dtype), normal(size.hidden).to(dtype))
            for _ in range(size.n_heads)
        ]
        self.outputs: list[torch.Tensor] = []
        self.scales: list[torch.Tensor | None] = []
        for _ in range(size.n_heads):
            matrix, scales = [], []
            for start in range(0, rows, CHUNK):
                part = normal(min(CHUNK, rows - start), size.hidden)
                if held in QUANTISED:
                    values, row_scales = quantise(part, QUANTISED[held])
                    undone = dequantised(values, row_scales).to(dtype)
                    matrix.append(values if kernels else undone)
                    scales.append(row_scales)
                else:
                    matrix.append(part.to(dtype))
            self.outputs.append(torch.cat(matrix))
            self.scales.append(torch.cat(scales) if scales and kernels else None)

    @property
    def num_bytes(self) -> int:
        """Bytes that a draft of every head must read."""
        tensors = [tensor for block in self.blocks for tensor in block] + self.outputs
        tensors += [scales for scales in self.scales if scales is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def read(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        """What the output matrix of a head is multiplied with."""
        weight, bias = self.blocks[head]
        return rows + silu(linear(rows, weight, bias))

    def top_tokens(self, rows: torch.Tensor, num_heads: int) -> torch.Tensor:
        """As `backward.Heads.top_tokens`."""
        return torch.stack([self._top(rows, head) for head in range(num_heads)], dim=-1)

    def _top(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        if not self.kernels:
            return self.logits(rows, head).argmax(dim=-1)
        from vllm_lmtp.worker.kernels.product import top_of_rows

        return top_of_rows(self.read(rows, head), self.outputs[head], self.scales[head])[1]

    def logits(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        """As `backward.Heads.logits`."""
        x, scales = self.read(rows, head), self.scales[head]
        if scales is None:
            return linear(x, self.outputs[head])
        from vllm_lmtp.worker.kernels.product import logits_of_rows

        return logits_of_rows(x, self.outputs[head], scales)

    def best_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        """As `backward.Heads.best_tokens`."""
        return scores.argmax(dim=-1)

    def exact_logits(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        """Logits of the weights as they are held, everything after the block in float64."""
        x, scales, parts = self.read(rows, head).double(), self.scales[head], []
        for start in range(0, len(self.outputs[head]), CHUNK):
            part = self.outputs[head][start : start + CHUNK].double()
            if scales is not None:
                part *= scales[start : start + CHUNK, None].double()
            parts.append(x @ part.T)
        return torch.cat(parts, dim=-1)


def term_scorer(
    kind: str, hidden: int, rows: int, rank: int, dtype: torch.dtype, device: torch.device
) -> MarkovScorer:
    """A term of a kind with random weights, one output matrix for all heads."""
    seeded = torch.Generator(device).manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=seeded, device=device).to(dtype)

    embed, output = drawn(rows + 1, rank), drawn(rows, rank)
    row_of_token = torch.arange(rows, device=device)
    if kind == MARKOV:
        return MarkovScorer(embed, output, row_of_token)
    return RecurrentScorer(drawn(rank, hidden), drawn(rank, 2 * rank), embed, output, row_of_token)


def make_decoder(
    size: Dimensions, heads: RandomHeads, scorer: Scorer | None, batch: int, device: torch.device
) -> BackwardDecoder:
    """Everything that a step runs, for `batch` requests."""
    dtype = heads.blocks[0][0].dtype
    history = History(batch, size.stride, size.hidden, dtype, device)
    return BackwardDecoder(LeapSchedule(size.n_heads, size.stride), heads, history, scorer)
