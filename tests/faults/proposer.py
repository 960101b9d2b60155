"""Model Runner V1's proposer over small random heads, without a runner: steps in, drafts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tests.support.speculators import HIDDEN, LONGEST_TEXT, MAX_REQS, ODDS, VOCAB, make_decoder
from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.method.copying import Copying, by_length
from vllm_lmtp.runner_v1.proposer import LMTPProposer
from vllm_lmtp.runner_v1.slots import SlotTable
from vllm_lmtp.runner_v1.texts import BatchTexts
from vllm_lmtp.worker.drafter import Drafter
from vllm_lmtp.worker.sources import SourceLog

CPU = torch.device("cpu")


@dataclass
class Request:
    """One in a step. name: its id. text: its tokens, the newest of which this step sampled. rows:
    that the step computed for it. hidden: [rows, H]. new: whether it begins here."""

    name: str
    text: list[int]
    hidden: torch.Tensor
    new: bool = False
    temperature: float = 0.0


def make_proposer(
    kind: str = "none", n_heads: int = 3, stride: int = 2, least: float = 0.0, draws: bool = False
) -> Any:
    """As `load_model` leaves it. least: confidence below which drafts are cut."""
    made = object.__new__(LMTPProposer)
    decoder = make_decoder(kind, n_heads, stride)
    places = decoder.schedule.max_drafts
    made.device, made.texts = CPU, BatchTexts(CPU)
    sources = torch.zeros(MAX_REQS, places, dtype=torch.uint8)
    odds = by_length(ODDS, 1, len(ODDS))
    accuracy = by_length((0.3, 0.6, 0.9), 1, 3, none=0.0)
    decoder.copying = Copying(made.texts, odds, accuracy, 2 * VOCAB, sources)
    lines = [(1.0 + p, 0.1 * p) for p in range(places)]
    confidence = Confidence(lines, places) if least else None
    made.drafter = Drafter(decoder, decoder.heads, confidence, 1.0)  # type: ignore[arg-type]
    made.decoder = decoder
    made.slots = SlotTable(MAX_REQS)
    made.lmtp_sources = SourceLog()
    made.undrafted = {}
    made.confidence = torch.zeros(MAX_REQS, places)
    made.least_confidence, made.cuts_by_price, made.draws = least, False, draws
    made._batch, made._batch_slots = [], []
    made.runner = SimpleNamespace(requests={}, input_batch=None)
    return made


def propose(
    made: Any, requests: Sequence[Request], finished: Sequence[str] = ()
) -> list[list[int]]:
    """A step of these requests, in this order; the draft of each."""
    count = len(requests)
    tokens = np.ones((MAX_REQS, LONGEST_TEXT), dtype=np.int32)
    lengths = np.zeros(MAX_REQS, dtype=np.int32)
    for row, request in enumerate(requests):
        tokens[row, : len(request.text)] = request.text
        lengths[row] = len(request.text)
    names = [request.name for request in requests]
    made.runner.input_batch = SimpleNamespace(
        req_ids=names,
        token_ids_cpu=tokens,
        is_token_ids=np.ones_like(tokens, dtype=bool),
        num_tokens_no_spec=lengths,
    )
    made.runner.requests = dict.fromkeys(names)
    sizes = torch.tensor([len(request.hidden) for request in requests])
    scheduled = SimpleNamespace(
        num_spec_tokens_to_schedule=made.decoder.schedule.max_drafts,
        total_num_scheduled_tokens=int(sizes.sum()),
        finished_req_ids=set(finished),
        preempted_req_ids=None,
        scheduled_cached_reqs=SimpleNamespace(resumed_req_ids=set()),
        scheduled_new_reqs=[SimpleNamespace(req_id=r.name) for r in requests if r.new],
    )
    temperature = torch.tensor([request.temperature for request in requests])
    sampling = SimpleNamespace(
        all_greedy=not temperature.any(),
        temperature=temperature,
        generators={row: torch.Generator().manual_seed(row) for row in range(count)},
    )
    attention = SimpleNamespace(
        query_start_loc=torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]),
        # The newest token was sampled here, so it has no row yet.
        seq_lens=torch.from_numpy(lengths[:count]) - 1,
    )
    hidden = torch.cat([request.hidden for request in requests])
    drafts = made.propose(
        scheduled,
        [[request.text[-1]] for request in requests],
        sampling,
        hidden,
        hidden[sizes.cumsum(0) - 1],
        None,
        None,
        attention,
        None,
    )
    return drafts.tolist() if isinstance(drafts, torch.Tensor) else drafts


def rows(count: int, seed: int) -> torch.Tensor:
    """Random hidden states."""
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(seed))
