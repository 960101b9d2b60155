"""Leap heads for Model Runner V2, vLLM's default on GPUs."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.spec_decode.speculator import DraftModelSpeculator

from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.choice import Choose
from vllm_lmtp.method.confidence import worth_verifying
from vllm_lmtp.runner_v2.draft_graph import DraftGraphs
from vllm_lmtp.runner_v2.seeded import SeededDraw
from vllm_lmtp.runner_v2.texts import SlotTexts
from vllm_lmtp.worker.drafter import Drafter, build_drafter
from vllm_lmtp.worker.sources import SourceLog


class LMTPSpeculator(DraftModelSpeculator):
    """Translates V2's batches for `BackwardDecoder`.

    V2 names each request's slot itself (`idx_mapping`), so the history needs no table of its own.
    Everything stays on the device: asynchronous scheduling and CUDA graphs hold.
    """

    drafter: Drafter
    decoder: BackwardDecoder
    choose: Choose | None
    """How a draft's places are filled, the same at every step."""
    graphs: DraftGraphs | None = None
    """While vLLM profiles memory there are none, or some that it throws away."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, req_states: Any) -> None:
        super().__init__(vllm_config, device)
        self.attn_groups: list[Any] = []
        # vLLM would estimate the confidence from the logits of the draft, for drafters without one.
        self.use_acceptance_estimator = False
        self.newest = torch.zeros_like(self.idx_mapping)
        # Here, not while the heads load: what is no buffer of theirs is lost in a deep sleep.
        self.places = torch.arange(self.num_speculative_steps, device=device)
        copies = vllm_config.speculative_config.lmtp_copy == "on"
        self.texts = SlotTexts(req_states, device, asked=copies)
        self.lmtp_sources = SourceLog()
        self._reset_reused_slots(req_states)

    def _reset_reused_slots(self, req_states: Any) -> None:
        """Forget a slot's tail when the runner gives the slot to a request."""
        add_request = req_states.add_request
        weak_self = weakref.ref(self)  # the runner drops its speculator to free the heads' memory

        def add_and_reset(req_id: str, *args: Any, **kwargs: Any) -> None:
            add_request(req_id, *args, **kwargs)
            if (speculator := weak_self()) is not None:
                speculator.decoder.history.reset(req_states.req_id_to_index[req_id])

        req_states.add_request = add_and_reset

    def load_draft_model(
        self, target_model: nn.Module, target_attn_layer_names: set[str]
    ) -> nn.Module:
        """Load the heads; they have no attention layers."""
        self.drafter = build_drafter(self.vllm_config, self.max_num_reqs, self.device, self.texts)
        self.decoder = self.drafter.decoder
        self.choose = self._chooser()
        return self.drafter.heads

    def _chooser(self) -> Choose | None:
        """Takes tensors rather than this object, lest a cycle keep the heads from being freed."""
        draw = None
        if self.draft_logits is not None:
            draw = SeededDraw(
                self.idx_mapping,
                self.newest,
                self.temperature,
                self.seeds,
                self.draft_logits,
                self.places,
                self.use_fp64_gumbel,
            )
        return self.drafter.choice(self.draft_token_confidence_probs, draw)

    def set_attn(self, *args: Any, **kwargs: Any) -> None:
        """Heads have no attention, so there is nothing to set."""

    def init_cudagraph_manager(self, cudagraph_mode: CUDAGraphMode) -> None:
        """Decide which batch sizes get a graph of the whole draft."""
        self.graphs = DraftGraphs(
            self.vllm_config,
            self.device,
            cudagraph_mode,
            self.decoder,
            self.num_speculative_steps,
            self.choose,
        )

    def capture(self) -> None:
        """Record the graphs; vLLM calls this after recording the target's."""
        assert self.graphs is not None
        self.idx_mapping.fill_(-1)  # what is drawn meanwhile is no request's
        self.graphs.capture_drafts()

    def propose(
        self,
        input_batch: InputBatch,
        attn_metadata: Any,
        slot_mappings: Any,
        last_hidden_states: torch.Tensor,
        aux_hidden_states: Any,
        num_sampled: torch.Tensor,
        num_rejected: torch.Tensor,
        last_sampled: torch.Tensor,
        next_prefill_tokens: torch.Tensor,
        temperature: torch.Tensor,
        seeds: torch.Tensor,
        dummy_run: bool = False,
        num_speculative_tokens: int | None = None,
        **unused: Any,
    ) -> torch.Tensor:
        """Draft for every row of the batch.

        Args:
            last_hidden_states: [T, H], final-norm hidden states.
            num_rejected: [R], rows at the end of each request that the target refused.
            last_sampled: [max_num_reqs, 1] int64, by slot, the newest token of each request.
            temperature, seeds: [max_num_reqs], by slot, for drafts that are drawn.
            num_speculative_tokens: drafts wanted this step, `None` for all.

        Returns:
            [R, num_speculative_steps] int64; the runner ignores columns beyond those wanted.
        """
        num_reqs = input_batch.num_reqs
        bounds = input_batch.query_start_loc[: num_reqs + 1].long()
        first = bounds[:-1]
        history = self.decoder.history
        slots = (
            torch.full_like(first, history.scratch_slot)
            if dummy_run
            else input_batch.idx_mapping[:num_reqs].long()
        )
        wanted = (
            self.num_speculative_steps if num_speculative_tokens is None else num_speculative_tokens
        )
        kept = bounds[1:] - first - num_rejected[:num_reqs]
        if self.draft_logits is not None:
            self._copy_request_inputs(num_reqs, slots, temperature, seeds, dummy_run)
            self.newest[:num_reqs] = input_batch.positions[first + kept - 1] + 1
        step = (
            last_hidden_states,
            first,
            kept,
            input_batch.positions[first],
            slots,
            wanted,
            last_sampled[input_batch.idx_mapping[:num_reqs].long()].view(num_reqs),
        )
        self.draft_tokens[:num_reqs, :wanted] = (
            self.decoder.draft(*step, self.choose)
            if self.graphs is None
            else self.graphs.draft(*step)
        )
        if least := self.speculative_config.lmtp_min_confidence:
            # What is certain to be refused is never worth verifying.
            confidence = self.draft_token_confidence_probs[:num_reqs, :wanted]
            confidence *= worth_verifying(confidence, least)
        if self.decoder.copying is not None and wanted and not dummy_run:
            origins = self.decoder.copying.sources[:num_reqs, :wanted]
            self.lmtp_sources.add(input_batch.req_ids, origins)
        return self.draft_tokens[:num_reqs]
