"""The whole draft as one CUDA graph for each padded batch size, for Model Runner V2.

A draft has no attention, so all of it can be recorded: history, heads, scorer, and the exchange
between ranks. vLLM's own manager decides which batch sizes get a graph, supplies the memory pool
and counts it in the memory profile; this file says what is recorded, and finds a step's graph.
Batches beyond the largest graph, and numbers of drafts without one, run eagerly, as everything does
where vLLM uses no graphs (CPUs, --enforce-eager).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from vllm.config import VllmConfig
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, CudaGraphManager

from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.choice import Choose
from vllm_lmtp.runner_v2.draft_inputs import DraftInputs


class DraftGraphs(CudaGraphManager):
    """Graphs of `decoder.draft`.

    A graph is named by its padded number of requests and its number of drafts m; to vLLM's manager
    that is a uniform batch with m + 1 tokens a request, which is also what the target will verify.

    Args:
        cudagraph_mode: of the target. Any that uses graphs lets the draft have its own.
        decoder: what is recorded.
        max_drafts: drafts of a step unless vLLM asks for fewer.
        choose: picks the token of each place, by tensors that never move and have a row for every
            padded request; None for the best.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        device: torch.device,
        cudagraph_mode: CUDAGraphMode,
        decoder: BackwardDecoder,
        max_drafts: int,
        choose: Choose | None = None,
    ) -> None:
        mode = CUDAGraphMode.FULL_DECODE_ONLY if cudagraph_mode else CUDAGraphMode.NONE
        super().__init__(vllm_config, device, mode, decode_query_len=max_drafts + 1)
        self.decoder, self.choose = decoder, choose
        self.outputs: dict[BatchExecutionDescriptor, torch.Tensor] = {}
        history = decoder.history
        # A step without drafts sets its rows aside on the host (LazyHistory): not for a graph.
        descs = [d for d in self._capture_descs.get(CUDAGraphMode.FULL, []) if _drafts(d)]
        if CUDAGraphMode.FULL in self._capture_descs:
            self._capture_descs[CUDAGraphMode.FULL] = descs
        # Smallest first. vLLM's own `dispatch` misses graphs where several numbers of drafts have
        # some, since it looks only at those of the next larger number of tokens (0.32.0).
        self.by_size = sorted(descs, key=lambda desc: desc.num_reqs or 0)
        if not descs:
            return
        self.inputs = DraftInputs(
            max(desc.num_reqs or 0 for desc in descs),
            history.stride,
            history.tails.shape[-1],
            history.scratch_slot,
            history.tails.dtype,
            device,
        )

    def capture_drafts(self) -> None:
        """Record every graph; the history changes in its scratch slot only."""
        if self.needs_capture():
            self.inputs.slots.fill_(self.inputs.scratch_slot)
            self.capture(self._recorded, "Capturing the L-MTP draft")

    def _recorded(
        self, desc: BatchExecutionDescriptor, warmup: bool
    ) -> Callable[[CUDAGraphMode], None]:
        """What vLLM's manager runs once to warm up and once to record."""
        num_reqs, tokens = desc.num_reqs, desc.uniform_token_count
        assert num_reqs is not None
        assert tokens is not None

        def run(mode: CUDAGraphMode) -> None:
            self.outputs[desc] = self.decoder.draft(
                *self.inputs.views(num_reqs),
                tokens - 1,
                self.inputs.sampled[:num_reqs],
                self.choose,
            )

        return run

    def draft(
        self,
        hidden: torch.Tensor,
        first: torch.Tensor,
        kept: torch.Tensor,
        start: torch.Tensor,
        slots: torch.Tensor,
        num_drafts: int,
        sampled: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `BackwardDecoder.draft`, by a graph where there is one.

        Returns:
            [R, num_drafts] int64, overwritten by the next call.
        """
        count = len(first)
        desc = self._graph_for(count, num_drafts)
        if desc is None:
            return self.decoder.draft(
                hidden, first, kept, start, slots, num_drafts, sampled, self.choose
            )
        assert desc.num_reqs is not None
        self.decoder.history.catch_up()
        self.inputs.fill(hidden, first, kept, start, slots, sampled, desc.num_reqs)
        self.run_fullgraph(desc)
        return self.outputs[desc][:count]

    def _graph_for(self, count: int, num_drafts: int) -> BatchExecutionDescriptor | None:
        """The smallest graph that holds `count` requests; None to run eagerly."""
        for desc in self.by_size:
            wide = desc.num_reqs is not None and desc.num_reqs >= count
            if wide and desc.uniform_token_count == num_drafts + 1 and desc in self.graphs:
                return desc
        return None

    def release_graphs(self) -> None:
        """As the manager's, and the tensors that belong to the graphs."""
        super().release_graphs()
        self.outputs.clear()


def _drafts(desc: BatchExecutionDescriptor) -> bool:
    """Whether a graph's requests have tokens beside the one that was sampled."""
    return desc.uniform_token_count is not None and desc.uniform_token_count > 1
