"""The leap heads as a vLLM module: residual blocks and vocabulary-parallel output matrices.

A head maps a hidden state x to logits out(f(x)) with f(x) = x + SiLU(W x + b), f applied
`num_layers` times with the same W and b, as the reference's repeated block does. The heads own no
attention and no KV cache.

Only the top token of each row is needed, so logits are not gathered (unless drafts are drawn from
them): every tensor-parallel rank finds the best token of its shard, and one exchange of (value, id)
pairs for the whole draft settles the rest. Ties go to the smaller id, on one rank or many.

Heads may draft from a vocabulary of their own; its ids stay inside this module.

On CUDA matrices may be held in int8 or float8 (head_dtype.py); a kernel that writes no logits then
finds the best of a shard. On CPUs they may be held in int8 (cpu_int8.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.platforms import current_platform
from vllm.triton_utils import HAS_TRITON

from vllm_lmtp.method.choice import Sought
from vllm_lmtp.method.scorer import rows_of_tokens
from vllm_lmtp.worker.cpu_int8 import Int8Product
from vllm_lmtp.worker.head_dtype import QUANTISED

HALVES = (torch.bfloat16, torch.float16)
FEW_ROWS = 64
"""Up to so many rows the kernels find the best token of a 16-bit matrix sooner than torch, which
writes all logits and reads them again; beyond, its product is the faster (docs/gpu.md)."""


def has_kernels() -> bool:
    """Whether the kernels can be used on this machine. ROCm's float8 is another, so CUDA alone."""
    return bool(current_platform.is_cuda() and HAS_TRITON)


class LeapHeads(nn.Module):
    """`n_heads` leap heads.

    Heads never take over the target's quantisation: they were not trained for it.

    Args:
        n_heads: number of heads.
        num_layers: times each head applies its residual block.
        hidden_size: H.
        vocab_size: rows of the output matrices, sharded over the tensor-parallel group in use.
        dtype: of the weights and of the rows.
        target_ids: [vocab_size] int64, strictly increasing, the target's token of each row of the
            output matrices; None where row and token are the same.
        target_vocab_size: V, where it is another than `vocab_size`.
        held: dtype of the output matrices, if another than `dtype`; int8 and float8 need kernels,
            which bfloat16 and float16 use where there are some, or `pack_int8`.
    """

    target_ids: torch.Tensor | None
    row_of_token: torch.Tensor | None
    """[V] int64, the row of every target token, as many as there are rows for one that has none."""

    def __init__(
        self,
        n_heads: int,
        num_layers: int,
        hidden_size: int,
        vocab_size: int,
        dtype: torch.dtype,
        target_ids: torch.Tensor | None = None,
        target_vocab_size: int | None = None,
        held: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.held = held = held or dtype
        self.kernels = held in QUANTISED.values() or (held in HALVES and has_kernels())
        self.num_layers = num_layers
        self.target_vocab_size = target_vocab_size or vocab_size
        self.blocks = nn.ModuleList(
            nn.Linear(hidden_size, hidden_size, dtype=dtype) for _ in range(n_heads)
        )
        self.outputs = nn.ModuleList(
            ParallelLMHead(vocab_size, hidden_size, params_dtype=held, prefix=f"lmtp.heads.{i}")
            for i in range(n_heads)
        )
        # What each row of an output matrix counts; none where the matrices need none.
        rows = self.output(0).num_embeddings_per_partition
        self.scales = nn.ParameterList(
            nn.Parameter(torch.ones(rows, dtype=torch.float32), requires_grad=False)
            for _ in range(n_heads if held in QUANTISED.values() else 0)
        )
        self.products: list[Int8Product] = []
        self.register_buffer("target_ids", target_ids, persistent=False)
        row_of_token = None
        if target_ids is not None:
            row_of_token = rows_of_tokens(self.target_vocab_size, target_ids.cpu())
            row_of_token = row_of_token.to(target_ids.device)
        self.register_buffer("row_of_token", row_of_token, persistent=False)
        self.requires_grad_(False)

    def pack_int8(self) -> None:
        """Multiply by int8 matrices as CPUs do, once they are filled; only packed ones are kept."""
        for head, scales in enumerate(self.scales):
            weight = self.output(head).weight
            self.products.append(Int8Product(weight.data, scales.data))
            weight.data = weight.data.new_empty(0, weight.shape[1])

    def output(self, head: int) -> Any:
        """The `ParallelLMHead` of a head."""
        return self.outputs[head]

    @property
    def num_bytes(self) -> int:
        """Bytes of this rank's head weights."""
        packed = sum(product.num_bytes for product in self.products)
        return packed + sum(p.numel() * p.element_size() for p in self.parameters())

    def top_tokens(self, rows: torch.Tensor, num_heads: int) -> torch.Tensor:
        """The most likely token of each of the first `num_heads` heads on each row.

        Args:
            rows: [N, H] in the heads' dtype.
            num_heads: heads to compute, 1..n.

        Returns:
            [N, num_heads] int64 ids of the target, the same on every tensor-parallel rank.
        """
        rows_of_output = self._top_rows(rows, num_heads)
        return rows_of_output if self.target_ids is None else self.target_ids[rows_of_output]

    def _top_rows(self, rows: torch.Tensor, num_heads: int) -> torch.Tensor:
        """As `top_tokens`, but ids of the heads' own vocabulary."""
        local = [self._top_of_shard(rows, head) for head in range(num_heads)]
        values = torch.stack([value for value, _ in local], dim=-1)
        ids = torch.stack([index for _, index in local], dim=-1)
        return self._best_of_ranks(values, ids)

    def best_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        """The best token of each row of scores.

        Args:
            scores: [N, S], this rank's shard of the vocabulary with its padding.

        Returns:
            [N] int64 ids of the target, the same on every tensor-parallel rank.
        """
        value, index = self._local_top(scores)
        best = self._best_of_ranks(value.unsqueeze(1), index.unsqueeze(1)).squeeze(1)
        return best if self.target_ids is None else self.target_ids[best]

    def top_with_log_probability(
        self, rows: torch.Tensor, num_heads: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `top_tokens`, and how likely each token is under the softmax of its head's logits.

        Returns:
            [N, num_heads] int64 ids of the target, and [N, num_heads] float32 log-probabilities,
            alike on every rank.
        """
        local = [self._mass_of_shard(rows, head) for head in range(num_heads)]
        values, ids, masses = (torch.stack(part, dim=-1) for part in zip(*local, strict=True))
        return self._likeliest_of_ranks(values, ids, masses)

    def best_with_log_probability(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `best_tokens`, and how likely that token is under the softmax of all scores.

        Returns:
            [N] int64 ids of the target, and [N] float32 log-probabilities, alike on every rank.
        """
        local = (*self._local_top(scores), scores.logsumexp(dim=-1))
        ids, found = self._likeliest_of_ranks(*(part.unsqueeze(1) for part in local))
        return ids.squeeze(1), found.squeeze(1)

    def seek(self, tokens: torch.Tensor) -> Sought:
        """Where this rank's shard of the vocabulary has target tokens, for `best_beside`.

        Args:
            tokens: int64 ids of the target, any shape.
        """
        shard = self.output(0).shard_indices
        rows = tokens if self.row_of_token is None else self.row_of_token[tokens]
        start, end = shard.org_vocab_start_index, shard.org_vocab_end_index
        elsewhere = (rows < start) | (rows >= end)
        return Sought((rows - start).masked_fill(elsewhere, 0), elsewhere)

    def best_beside(
        self, scores: torch.Tensor, sought: Sought
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `best_with_log_probability`, and how likely another token is of each row.

        Args:
            scores: [N, S], this rank's shard of the vocabulary with its padding.
            sought: other tokens, [N, 1].

        Returns:
            [N] int64 ids of the target, [N] float32 log-probabilities of them, and [N] of the other
            tokens, -inf for those that the heads cannot name; alike on every rank.
        """
        # The best of all shards finds the one shard that has the token.
        beside = scores.gather(1, sought.rows).masked_fill(sought.elsewhere, float("-inf"))
        value, index = self._local_top(scores)
        mass = scores.logsumexp(dim=-1)
        if self.output(0).tp_size == 1:
            best = index if self.target_ids is None else self.target_ids[index]
            return best, value - mass, beside.squeeze(1) - mass
        pair = torch.stack([value, beside.squeeze(1)], dim=1)
        ids = torch.stack([index, torch.zeros_like(index)], dim=1)
        best, log_probability = self._likeliest_of_ranks(pair, ids, torch.stack([mass, mass], 1))
        return best[:, 0], log_probability[:, 0], log_probability[:, 1]

    def _likeliest_of_ranks(
        self, values: torch.Tensor, ids: torch.Tensor, masses: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best of all ranks, and its log-probability.

        The log-sum-exp of every shard is a third column of the one exchange.

        Args:
            values, ids: [N, C], as in `_best_of_ranks`. masses: [N, C] float32, log-sum-exp of this
                rank's shard.

        Returns:
            [N, C] int64 ids of the target, [N, C] float32.
        """
        tp_size = self.output(0).tp_size
        if tp_size > 1:
            triples = torch.stack([values.float(), ids.float(), masses], dim=-1)
            gathered = tensor_model_parallel_all_gather(triples.flatten(1), dim=-1)
            by_rank = gathered.view(len(values), tp_size, -1, 3)
            best = by_rank[..., 0].argmax(dim=1, keepdim=True)
            values = by_rank[..., 0].gather(1, best).squeeze(1)
            ids = by_rank[..., 1].gather(1, best).squeeze(1).to(torch.int64)
            masses = by_rank[..., 2].logsumexp(dim=1)
        return ids if self.target_ids is None else self.target_ids[ids], values - masses

    def over_target_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of all ranks in the order of the target's tokens.

        Args:
            scores: [N, S], this rank's shard of the vocabulary with its padding.

        Returns:
            [N, V], -inf for tokens that the heads cannot draft; alike on every rank.
        """
        output = self.output(0)
        whole = scores
        if output.tp_size > 1:
            whole = tensor_model_parallel_all_gather(scores, dim=-1)
        whole = whole[:, : output.org_vocab_size]  # padding comes last
        if self.target_ids is None:
            return whole
        by_token = whole.new_full((len(whole), self.target_vocab_size), float("-inf"))
        return by_token.index_copy_(1, self.target_ids, whole)

    def _best_of_ranks(self, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Ids of the best values over all ranks.

        Args:
            values, ids: [N, C], the best of this rank's shard and their ids.

        Returns:
            [N, C] int64.
        """
        tp_size = self.output(0).tp_size
        if tp_size == 1:
            return ids
        # float32 carries ids exactly below 2**24, and vLLM's CPU collectives know no int64.
        pairs = torch.stack([values.float(), ids.float()], dim=-1)
        gathered = tensor_model_parallel_all_gather(pairs.flatten(1), dim=-1)
        by_rank = gathered.view(len(values), tp_size, -1, 2)
        best = by_rank[..., 0].argmax(dim=1, keepdim=True)
        return by_rank[..., 1].gather(1, best).squeeze(1).to(torch.int64)

    def logits(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        """Logits [N, S] of one head on this rank's shard of the vocabulary; padding has -inf."""
        x = self._read(rows, head)
        output = self.output(head)
        shard = output.shard_indices
        if self.products:
            logits = self.products[head](x)
        elif self.scales:
            from vllm_lmtp.worker.kernels.product import logits_of_rows

            return logits_of_rows(x, output.weight, self.scales[head], shard.num_org_elements)
        else:
            logits = output.quant_method.apply(output, x)
        if shard.num_org_vocab_padding > 0:
            logits[..., -shard.num_org_vocab_padding :] = float("-inf")
        return logits

    def _read(self, rows: torch.Tensor, head: int) -> torch.Tensor:
        """What a head's output matrix is multiplied with, [N, H]."""
        x = rows
        for _ in range(self.num_layers):
            x = x + nn.functional.silu(self.blocks[head](x))
        return x if self.scales else x.to(self.output(head).weight.dtype)

    def _top_of_shard(self, rows: torch.Tensor, head: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Best value [N] of a head and its id [N], on this rank's shard of the vocabulary."""
        if not self._uses_kernels(rows):
            return self._local_top(self.logits(rows, head))
        value, index, _ = self._by_kernel(rows, head)
        return value, index

    def _mass_of_shard(
        self, rows: torch.Tensor, head: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `_top_of_shard`, and the log-sum-exp [N] float32 of the shard."""
        if self._uses_kernels(rows):
            return self._by_kernel(rows, head)
        logits = self.logits(rows, head).float()
        return (*self._local_top(logits), logits.logsumexp(dim=-1))

    def _uses_kernels(self, rows: torch.Tensor) -> bool:
        """Whether a kernel finds the best tokens of these rows; int8 and fp8 leave no choice."""
        if self.products:
            return False
        return self.kernels and (bool(self.scales) or len(rows) <= FEW_ROWS)

    def _by_kernel(
        self, rows: torch.Tensor, head: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `_mass_of_shard`, without writing logits."""
        from vllm_lmtp.worker.kernels.product import top_of_rows

        output = self.output(head)
        shard = output.shard_indices
        scales = self.scales[head] if self.scales else None
        x = self._read(rows, head)
        value, index, mass = top_of_rows(x, output.weight, scales, shard.num_org_elements)
        return value, index + shard.org_vocab_start_index, mass

    def _local_top(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Best value [N] and its id [N] in the heads' vocabulary, on this rank's shard of it."""
        value, index = logits.max(dim=-1)
        start = self.output(0).shard_indices.org_vocab_start_index
        return value, index + start if start else index
