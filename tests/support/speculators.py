"""Speculators of Model Runner V2 over small random heads, the steps and texts they are given, and
their graphs on a CPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.graph_recorder import record_graphs
from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.method.copying import Copying, by_length
from vllm_lmtp.method.history import History
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.method.scorer import (
    MarkovScorer,
    RecurrentScorer,
    Scorer,
    SuccessorTable,
    rows_of_tokens,
)
from vllm_lmtp.worker.drafter import Drafter
from vllm_lmtp.worker.sources import SourceLog

HIDDEN, VOCAB, MAX_REQS, SLOTS = 16, 97, 11, 14
SIZES = [1, 2, 4, 8]
LONGEST_TEXT = 40
ODDS = (-1.0, 0.2, 0.9)
"""Of matches of one token, two and more: heads and texts both get their way."""


def make_states(texts: list[list[int]] | None = None, device: str = "cpu") -> Any:
    """As much of vLLM's `RequestState` as holds the texts of all slots, empty ones where none are
    given. Behind each text stands what another request left there."""
    held = torch.full((MAX_REQS, LONGEST_TEXT), 1, dtype=torch.int32)
    lengths = torch.zeros(MAX_REQS, dtype=torch.int32)
    for slot, text in enumerate(texts or ()):
        held[slot] = text[-1]
        held[slot, : len(text)] = torch.tensor(text)
        lengths[slot] = len(text)
    return SimpleNamespace(
        max_num_reqs=MAX_REQS,
        max_model_len=LONGEST_TEXT,
        all_token_ids=SimpleNamespace(gpu=held.to(device)),
        total_len=SimpleNamespace(gpu=lengths.to(device)),
    )


def write_texts(states: Any, seed: int, highest: int = 2 * VOCAB) -> list[list[int]]:
    """New texts for all slots, written where the old ones were, as vLLM does; returns them.

    highest: of few tokens, so that texts repeat themselves; the target has none of 2 * VOCAB.
    """
    seeded = torch.Generator().manual_seed(seed)
    few = torch.tensor([0, 3, 8, highest], dtype=torch.int32)
    texts = []
    for _ in range(MAX_REQS):
        length = int(torch.randint(1, LONGEST_TEXT + 1, (1,), generator=seeded))
        texts.append(few[torch.randint(0, 4, (length,), generator=seeded)].tolist())
    new = make_states(texts)
    states.all_token_ids.gpu.copy_(new.all_token_ids.gpu)
    states.total_len.gpu.copy_(new.total_len.gpu)
    return texts


def sources_of(speculator: Any) -> dict[str, list[int]]:
    """By request, the `Origin` of each place of the newest draft; empty where none was noted."""
    speculator.lmtp_sources.take()
    return {
        req_id: origins
        for sources in speculator.lmtp_sources.take()
        for req_id, origins in sources.by_request().items()
    }


def make_scorer(kind: str, seeded: torch.Generator) -> Scorer | None:
    rows = torch.arange(VOCAB)
    if kind == "markov":
        embed = torch.randn(VOCAB + 1, 4, generator=seeded)
        return MarkovScorer(embed, torch.randn(128, 4, generator=seeded), rows)
    if kind == "recurrent":
        return RecurrentScorer(
            torch.randn(4, HIDDEN, generator=seeded),
            torch.randn(4, 8, generator=seeded),
            torch.randn(VOCAB + 1, 4, generator=seeded),
            torch.randn(128, 4, generator=seeded),
            rows,
        )
    if kind == "table":
        places = torch.randint(0, VOCAB, (VOCAB, 5), generator=seeded, dtype=torch.int32)
        return SuccessorTable(places, torch.rand(VOCAB, 5, generator=seeded).half(), rows, 2.0)
    return None


def make_decoder(
    kind: str,
    n_heads: int,
    stride: int,
    device: str = "cpu",
    reduced: bool = True,
    states: Any = None,
    odds: tuple[float, ...] = ODDS,
) -> BackwardDecoder:
    """Real heads over random weights, with a draft vocabulary.

    states: of `make_states`, for drafts that copy. odds: of a match of 1, 2, ... tokens.
    """
    from vllm_lmtp.worker.heads import LeapHeads

    seeded = torch.Generator().manual_seed(3)
    ids = torch.arange(VOCAB) * 2 + 1 if reduced else None
    with torch.device(device):
        size = {"target_vocab_size": 2 * VOCAB} if reduced else {}
        heads = LeapHeads(n_heads, 1, HIDDEN, VOCAB, torch.float32, **size)
    if ids is not None:
        heads.register_buffer("target_ids", ids.to(device))
        heads.register_buffer("row_of_token", rows_of_tokens(2 * VOCAB, ids).to(device))
    for parameter in heads.parameters():
        parameter.data = torch.randn(parameter.shape, generator=seeded).to(device)
    if device == "cpu":
        for output in heads.outputs:
            output.quant_method.process_weights_after_loading(output)
    else:
        for output in heads.outputs:
            output.cpu_linear = torch.nn.functional.linear
    scorer = make_scorer(kind, seeded)
    history = History(SLOTS, stride, HIDDEN, torch.float32, device)
    schedule = LeapSchedule(n_heads, stride)
    decoder = BackwardDecoder(schedule, heads, history, scorer and scorer.to(device))
    if states is not None:
        from vllm_lmtp.runner_v2.texts import SlotTexts

        sources = torch.zeros(MAX_REQS, schedule.max_drafts, dtype=torch.uint8, device=device)
        texts = SlotTexts(states, torch.device("cpu"))
        none = [0.0] * (len(odds) + 1)
        decoder.copying = Copying(texts, by_length(odds, 1, len(odds)), none, 2 * VOCAB, sources)
    return decoder


def make_speculator(decoder: BackwardDecoder, choice: str = "best") -> Any:
    from vllm_lmtp.runner_v2.speculator import LMTPSpeculator

    made = object.__new__(LMTPSpeculator)
    made.decoder = decoder
    made.device = device = decoder.history.tails.device
    steps = made.num_speculative_steps = decoder.schedule.max_drafts
    confidence = None
    if "confident" in choice:
        confidence = Confidence([(1.0 + p, 0.1 * p) for p in range(steps)], steps).to(device)
    made.drafter = Drafter(decoder, decoder.heads, confidence, 1.0)  # type: ignore[arg-type]
    made.speculative_config = SimpleNamespace(lmtp_min_confidence=0.0)
    made.draft_tokens = torch.zeros(MAX_REQS, steps, dtype=torch.int64, device=device)
    made.draft_token_confidence_probs = made.draft_tokens.float()
    made.idx_mapping = torch.zeros(MAX_REQS, dtype=torch.int64, device=device)
    made.newest, made.seeds = made.idx_mapping.clone(), made.idx_mapping.clone()
    made.temperature = made.idx_mapping.float()
    made.places = torch.arange(decoder.schedule.max_drafts, device=device)
    made.use_fp64_gumbel = False
    made.lmtp_sources = SourceLog()
    made.draft_logits = None
    if "drawn" in choice:  # a row more, which the slot -1 names
        made.draft_logits = torch.zeros(MAX_REQS + 1, steps, 2 * VOCAB, device=device)
    made.choose = made._chooser()
    return made


def keyed_sample(
    logits: torch.Tensor,
    slots: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    logits_cache: torch.Tensor,
    logits_cache_col: torch.Tensor,
    **options: Any,
) -> torch.Tensor:
    """What vLLM's kernel does, as operators that the recorder sees; another noise of seed,
    position and token."""
    requests = slots.clamp(min=0)
    heat = temperature[requests].unsqueeze(1)
    key = ((31 * seeds[requests] + positions) % 10007).unsqueeze(1) * logits.shape[1]
    token = torch.arange(logits.shape[1], device=logits.device)
    noise = torch.sin((key + token).double()) * 43758.5
    noise = -torch.log(-torch.log((noise - noise.floor()).clamp(1e-6, 1 - 1e-6)))
    logits_cache.index_put_((slots, logits_cache_col.expand_as(slots)), logits)
    drawn = logits / heat.clamp(min=1e-3) + noise
    return torch.where(heat == 0, logits, drawn.float()).argmax(dim=-1)


def make_step(num_reqs: int, seed: int, lengths: list[int] | None = None) -> dict[str, Any]:
    """A random step as V2 hands it over; `lengths` fixes its shape."""
    seeded = torch.Generator().manual_seed(seed)
    sizes = lengths or torch.randint(1, 7, (num_reqs,), generator=seeded).tolist()
    length = torch.tensor(sizes, dtype=torch.int32)
    bounds = torch.cat([torch.zeros(1, dtype=torch.int32), length.cumsum(0).int()])
    total = int(bounds[-1])
    # Few positions, so that stored tails often join and often do not.
    start = torch.randint(0, 4, (num_reqs,), generator=seeded)
    positions = torch.cat([s + torch.arange(n) for s, n in zip(start, sizes, strict=True)])
    slots = torch.randperm(MAX_REQS, generator=seeded)[:num_reqs].int()
    rejected = (torch.rand(num_reqs, generator=seeded) * length).int()
    return {
        "input_batch": SimpleNamespace(
            num_reqs=num_reqs,
            req_ids=[f"of slot {slot}" for slot in slots.tolist()],
            query_start_loc=bounds,
            positions=positions,
            idx_mapping=slots,
        ),
        "attn_metadata": None,
        "slot_mappings": None,
        "last_hidden_states": torch.randn(total, HIDDEN, generator=seeded),
        "aux_hidden_states": None,
        "num_sampled": length - rejected,
        "num_rejected": rejected,
        "last_sampled": torch.randint(0, 2 * VOCAB, (MAX_REQS, 1), generator=seeded),
        "next_prefill_tokens": None,
        # Read only by drafts that are drawn; every third request is greedy.
        "temperature": (seed + torch.arange(MAX_REQS)) % 3 * 5.0,
        "seeds": torch.randint(0, 2**40, (MAX_REQS,), generator=seeded),
    }


def on_meta(step: dict[str, Any]) -> dict[str, Any]:
    """A step whose tensors hold no values."""
    batch = step["input_batch"]
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            setattr(batch, name, value.to("meta"))
    return {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in step.items()}


def graph_config(sizes: list[int], schedule: Any = None) -> Any:
    """As much of vLLM's config as its graph manager reads."""
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=MAX_REQS),
        compilation_config=SimpleNamespace(
            cudagraph_capture_sizes=sizes, max_cudagraph_capture_size=max(sizes)
        ),
        parallel_config=SimpleNamespace(tensor_parallel_size=1, data_parallel_size=1),
        cache_config=SimpleNamespace(use_kda_recoverssm=False),
        speculative_config=SimpleNamespace(
            uses_dynamic_speculative_decoding=lambda: schedule is not None,
            num_speculative_tokens_per_batch_size=schedule,
        ),
        num_speculative_tokens=6,
    )


def with_graphs(
    patch: pytest.MonkeyPatch,
    decoder: BackwardDecoder,
    schedule: Any = None,
    mode: str = "FULL",
    choice: str = "best",
) -> Any:
    """A speculator of six drafts with graphs for 1, 2, 4 and 8 requests."""
    from vllm.config.compilation import CUDAGraphMode

    record_graphs(patch)
    speculator = make_speculator(decoder, choice)
    speculator.vllm_config = graph_config([7 * size for size in SIZES], schedule)
    speculator.init_cudagraph_manager(CUDAGraphMode[mode])
    with torch.inference_mode():
        speculator.capture()
    return speculator


def same_state(one: BackwardDecoder, other: BackwardDecoder) -> bool:
    """Equal histories in every slot that a request can have."""
    pairs = zip(one.history.buffers(), other.history.buffers(), strict=True)
    return all(torch.equal(a[:SLOTS], b[:SLOTS]) for a, b in pairs)
