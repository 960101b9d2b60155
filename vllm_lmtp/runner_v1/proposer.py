"""Leap heads for Model Runner V1, which vLLM uses on CPUs without Triton.

A thin synchronous adapter: vLLM is retiring this runner, so nothing is spent on it beyond being
right. It will be deleted with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig

from vllm_lmtp import is_lmtp
from vllm_lmtp.errors import refuse
from vllm_lmtp.length.plan import CARRIED, Plan
from vllm_lmtp.method.backward import BackwardDecoder, Worth
from vllm_lmtp.method.confidence import most_worth, worth_verifying
from vllm_lmtp.method.copying import Origin
from vllm_lmtp.runner_v1.drawing import Drawing
from vllm_lmtp.runner_v1.slots import SlotTable
from vllm_lmtp.runner_v1.texts import BatchTexts
from vllm_lmtp.worker.drafter import Drafter, build_drafter
from vllm_lmtp.worker.sources import SourceLog

SOMETHING = 1e-6
"""Confidence of a place that a text says anything of, at least."""
CLASS_PATH = "vllm_lmtp.runner_v1.proposer.LMTPProposer"


@contextmanager
def as_custom_class(speculative_config: Any) -> Iterator[None]:
    """While V1 builds its drafter, present lmtp as a custom class, the open entry in its list."""
    if not is_lmtp(speculative_config):
        yield
        return
    method, model = speculative_config.method, speculative_config.model
    speculative_config.method, speculative_config.model = "custom_class", CLASS_PATH
    try:
        yield
    finally:
        speculative_config.method, speculative_config.model = method, model


def refuse_async(vllm_config: VllmConfig) -> None:
    """Stop where vLLM fell back to V1 for a reason of its own and left scheduling asynchronous.

    Raises:
        LMTPError: lmtp with asynchronous scheduling on V1, where it would lose its place.
    """
    asynchronous = vllm_config.scheduler_config.async_scheduling
    if asynchronous and is_lmtp(vllm_config.speculative_config):
        raise refuse(
            "Model Runner V1",
            "async_scheduling",
            found="on",
            expected="off: lmtp drafts synchronously on V1",
            remedy="add --no-async-scheduling, or use Model Runner V2",
        )


class LMTPProposer:
    """Translates V1's batches for `BackwardDecoder`."""

    in_use = False
    """Whether this process has built an lmtp drafter on V1; without one, patches stay inert."""
    drafter: Drafter
    decoder: BackwardDecoder
    model: nn.Module

    def __init__(self, vllm_config: VllmConfig) -> None:
        LMTPProposer.in_use = True
        self.vllm_config = vllm_config
        # Twice the batch, so that requests that wait for a step seldom lose their slot.
        self.num_slots = 2 * vllm_config.scheduler_config.max_num_seqs
        self.slots = SlotTable(self.num_slots)
        self.lmtp_sources = SourceLog()
        self.undrafted: dict[int, Any] = {}
        """vLLM's metadata of a step of one token each, by the number of requests."""

    def attach(self, runner: Any) -> None:
        """Take what the runner knows and a custom class is not told."""
        self.runner = runner
        self.device = runner.device
        # Near the end of the context V1 would stop drafting for the whole batch, lest a drafter
        # run past its own context. Heads have none, and the scheduler trims each request's draft.
        runner.effective_drafter_max_model_len += runner.num_spec_tokens + 1

    def load_model(self, target_model: nn.Module) -> None:
        """Load the heads."""
        self.texts = BatchTexts(self.device)
        self.drafter = build_drafter(
            self.vllm_config, self.num_slots, self.device, texts=self.texts
        )
        self.decoder, self.model = self.drafter.decoder, self.drafter.heads
        config = self.vllm_config.speculative_config
        shape = self.vllm_config.scheduler_config.max_num_seqs, config.num_speculative_tokens
        self.confidence = torch.zeros(shape, dtype=torch.float32, device=self.device)
        self.least_confidence = config.lmtp_min_confidence
        self.cuts_by_price = config.lmtp_cut_by_price
        self.draws = config.draft_sample_method == "probabilistic"
        self._batch: list[str] = []
        self._batch_slots: list[int] = []
        self._warm_up(shape[1])

    def _warm_up(self, num_drafts: int) -> None:
        """Draft once for nobody: the first draft pays for what later ones find prepared, and by its
        time the length of all others would be judged."""
        tails = self.decoder.history.tails
        states = tails.new_zeros(1, self.decoder.schedule.stride, tails.shape[-1])
        sampled = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.decoder.fill(states, sampled, num_drafts, self.drafter.choice(None, None))

    def set_least_confidence(self, least: float) -> None:
        """Cut drafts there from now on, whatever a row is worth; 0 keeps all of them.

        Raises:
            ValueError: the drafter was built without a cut, so it knows no confidence.
        """
        if least and self.drafter.confidence is None:
            raise ValueError("lmtp_min_confidence was 0 when the engine started")
        self.least_confidence, self.cuts_by_price = least, False

    def propose(
        self,
        scheduler_output: Any,
        sampled_token_ids: list[list[int]],
        sampling_metadata: Any,
        hidden_states: torch.Tensor,
        sample_hidden_states: torch.Tensor,
        aux_hidden_states: Any,
        spec_decode_metadata: Any,
        common_attn_metadata: Any,
        slot_mappings: Any,
    ) -> torch.Tensor | list[list[int]]:
        """Draft for every row of the batch.

        Args:
            sampled_token_ids: the tokens each request emitted, none in the middle of a prompt.
            hidden_states: [T, H], final-norm hidden states; sample_hidden_states: those rows of it
                that the LM head read.

        Returns:
            [R, m] int64, m the number of drafts that the scheduler wants this step; or lists of at
            most m, where drafts that are not confident enough lose their tail or none are wanted.
        """
        num_reqs = len(sampled_token_ids)
        wanted = scheduler_output.num_spec_tokens_to_schedule
        slots = self._assign_slots(scheduler_output)
        if not wanted and scheduler_output.total_num_scheduled_tokens == num_reqs:
            # Under load such steps come by the thousand, so they take no tensor operation. (A row
            # of each request: these were gathered for the LM head, and nobody writes over them.)
            start = self.runner.input_batch.num_computed_tokens_cpu[:num_reqs].tolist()
            self.decoder.history.defer_one_each(sample_hidden_states, start, slots)
            return [[] for _ in range(num_reqs)]
        bounds = common_attn_metadata.query_start_loc[: num_reqs + 1].long()
        first, length = bounds[:-1], bounds.diff()
        rejected = _rejected(sampled_token_ids, spec_decode_metadata)
        step = (
            hidden_states,
            first,
            length - self._to_device(rejected) if any(rejected) else length,
            common_attn_metadata.seq_lens[:num_reqs].long() - length,
            self._to_device(slots),
        )
        if not wanted:
            self.decoder.history.defer(*step)
            return [[] for _ in range(num_reqs)]
        copying = self.decoder.copying
        if copying is not None:
            self.texts.take(self.runner.input_batch, num_reqs)
            copying.sources[:num_reqs] = Origin.HEADS  # of places that are not filled
        plan: Plan | None = getattr(scheduler_output, CARRIED, None)
        drawing = self._drawing(sampled_token_ids, sampling_metadata)
        least, costs = self.least_confidence, None
        if self.cuts_by_price and plan is not None:
            least, costs = plan.cut(drawing is not None)
        ask_heads = plan is None or plan.wanted > 0
        if not ask_heads:  # else drafts of texts that say nothing would be verified
            least = max(least, SOMETHING)
        confident = bool(least) or costs is not None
        if confident:
            self.confidence[:num_reqs] = 0.0  # of places that are not filled
        draft = self.decoder.draft(
            *step,
            wanted,
            # In the middle of a prompt nothing was sampled, and the scheduler drops the draft.
            self._to_device([tokens[-1] if tokens else 0 for tokens in sampled_token_ids]),
            choose=self.drafter.choice(self.confidence if confident else None, drawing),
            worth=self._worth(num_reqs, least) if least else None,
            may_look=True,
            ask_heads=ask_heads,
        )
        if copying is not None:
            self.lmtp_sources.add(self.runner.input_batch.req_ids, copying.sources[:num_reqs])
        if drawing is not None:
            # Read in the next step by the rejection sampler, request by request.
            self.runner._draft_probs = drawing.probabilities()
            self.runner._draft_prob_req_ids = list(self.runner.input_batch.req_ids)
        if not confident:
            return draft
        confidence = self.confidence[:num_reqs, : draft.shape[1]]
        if costs is None:
            lengths = worth_verifying(confidence, least).sum(dim=1).tolist()
        else:
            lengths = [most_worth(confidence[0].tolist(), costs, SOMETHING)]
        return [tokens[:n] for tokens, n in zip(draft.tolist(), lengths, strict=True)]

    def _worth(self, num_reqs: int, least: float) -> Worth:
        """Whether any draft keeps its last place so far. Where none does, the heads that would go
        on are spared; a cut is read on the host anyway."""

        def goes_on(filled: int, rows: torch.Tensor | None) -> bool:
            confidence = self.confidence[slice(num_reqs) if rows is None else rows, :filled]
            return bool(worth_verifying(confidence, least)[:, -1].any())

        return goes_on

    def _drawing(self, sampled_token_ids: list[list[int]], metadata: Any) -> Drawing | None:
        """How this draft's tokens are drawn; None where the best are taken."""
        if not self.draws or metadata.all_greedy:
            return None
        generators = {
            row: generator
            for row, generator in metadata.generators.items()
            if sampled_token_ids[row]
        }
        return Drawing(metadata.temperature, generators)

    def _assign_slots(self, scheduler_output: Any) -> list[int]:
        batch = self.runner.input_batch.req_ids
        leaving = (
            scheduler_output.finished_req_ids,
            scheduler_output.preempted_req_ids or (),
            scheduler_output.scheduled_cached_reqs.resumed_req_ids,
            [new.req_id for new in scheduler_output.scheduled_new_reqs],
        )
        if not any(leaving) and batch == self._batch:
            return self._batch_slots
        for req_ids in leaving:
            self.slots.forget(req_ids)
        slots, fresh = self.slots.assign(batch, self.runner.requests)
        for slot in fresh:
            self.decoder.history.reset(slot)
        self._batch, self._batch_slots = list(batch), slots
        return slots

    def _to_device(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self.device, non_blocking=True)


def _rejected(sampled_token_ids: list[list[int]], spec_decode_metadata: Any) -> list[int]:
    """Rows of each request that the target refused: drafts + 1 rows gave `len(tokens)` tokens."""
    if spec_decode_metadata is None:
        return [0] * len(sampled_token_ids)
    return [
        drafted + 1 - len(tokens) if drafted and tokens else 0
        for drafted, tokens in zip(
            spec_decode_metadata.num_draft_tokens, sampled_token_ids, strict=True
        )
    ]
