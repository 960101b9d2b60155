"""The draft step of Model Runner V2: what a CUDA graph can hold, and right when one holds it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.graph_guard import GraphSafe
from tests.support.graph_recorder import record_graphs
from tests.support.one_rank_world import one_process_world  # noqa: F401
from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.method.history import History
from vllm_lmtp.method.lazy_history import LazyHistory
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.method.scorer import MarkovScorer, RecurrentScorer, Scorer, SuccessorTable
from vllm_lmtp.worker.drafter import Drafter

HIDDEN, VOCAB, MAX_REQS, SLOTS = 16, 97, 11, 14
SCORERS = ["none", "markov", "recurrent", "table"]
CHOSEN = [
    *(("markov", choice) for choice in ("confident", "drawn", "confident and drawn")),
    ("none", "confident"),
]
"""Without a scorer, confidence comes with the best tokens of all places at once."""
SIZES = [1, 2, 4, 8]
STEPS = 2 * MAX_REQS


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
    kind: str, n_heads: int, stride: int, device: str = "cpu", reduced: bool = True
) -> BackwardDecoder:
    """Real heads over random weights, with a draft vocabulary."""
    from vllm_lmtp.worker.heads import LeapHeads

    seeded = torch.Generator().manual_seed(3)
    ids = torch.arange(VOCAB) * 2 + 1 if reduced else None
    with torch.device(device):
        size = {"target_vocab_size": 2 * VOCAB} if reduced else {}
        heads = LeapHeads(n_heads, 1, HIDDEN, VOCAB, torch.float32, **size)
    heads.register_buffer("target_ids", ids if ids is None else ids.to(device))
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
    return BackwardDecoder(schedule, heads, history, scorer and scorer.to(device))


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
    made.use_fp64_gumbel = False
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
            num_reqs=num_reqs, query_start_loc=bounds, positions=positions, idx_mapping=slots
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


@pytest.mark.parametrize("dummy_run", [False, True])
@pytest.mark.parametrize("kind", SCORERS)
@pytest.mark.parametrize(("n_heads", "stride"), [(3, 2), (4, 1), (2, 3)])
def test_the_draft_step_can_be_recorded(
    n_heads: int, stride: int, kind: str, dummy_run: bool
) -> None:
    speculator = make_speculator(make_decoder(kind, n_heads, stride))
    lengths = [1, 5, 2, 6, 1]
    logs = []
    for seed in range(3):
        step = make_step(5, seed, lengths)
        for wanted in (None, 1, 0):
            with GraphSafe() as guard:
                speculator.propose(**step, dummy_run=dummy_run, num_speculative_tokens=wanted)
            logs.append(guard.log)
    assert len(logs[0]) > len(logs[1]) > len(logs[2]) > 0
    assert logs[0:3] == logs[3:6] == logs[6:9]


@pytest.mark.parametrize(("kind", "choice"), CHOSEN)
def test_a_choice_can_be_recorded(monkeypatch: pytest.MonkeyPatch, kind: str, choice: str) -> None:
    monkeypatch.setattr("vllm_lmtp.runner_v2.seeded.gumbel_sample", keyed_sample)
    speculator = make_speculator(make_decoder(kind, 3, 2), choice)
    logs = []
    for seed in range(3):
        step = make_step(5, seed, [1, 5, 2, 6, 1])
        with GraphSafe() as guard:
            speculator.propose(**step)
        logs.append(guard.log)
    assert logs[0] == logs[1] == logs[2]


@pytest.mark.parametrize(
    ("kind", "choice"), [*((kind, "best") for kind in SCORERS), ("markov", "confident and drawn")]
)
def test_the_draft_step_runs_without_any_data(
    monkeypatch: pytest.MonkeyPatch, kind: str, choice: str
) -> None:
    """Meta tensors hold no values, so whatever asked for one would fail."""
    monkeypatch.setattr("vllm_lmtp.runner_v2.seeded.gumbel_sample", keyed_sample)
    speculator = make_speculator(make_decoder(kind, 3, 2, "meta"), choice)
    step = make_step(5, 0)
    batch = step["input_batch"]
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            setattr(batch, name, value.to("meta"))
    on_meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in step.items()}
    drafts = speculator.propose(**on_meta)
    assert (drafts.shape, drafts.device.type) == ((5, 6), "meta")


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


@pytest.mark.parametrize(
    ("n_heads", "stride", "kind"),
    [
        (3, 2, "none"),
        (3, 2, "table"),
        (6, 1, "none"),
        (2, 3, "none"),
        (2, 3, "markov"),
        (3, 2, "recurrent"),
    ],
)
def test_graphs_draft_as_eager_code_does(
    monkeypatch: pytest.MonkeyPatch, n_heads: int, stride: int, kind: str
) -> None:
    """For every batch size, padded or not or beyond the largest graph, step after step."""
    eager = make_speculator(make_decoder(kind, n_heads, stride))
    graphed = with_graphs(monkeypatch, make_decoder(kind, n_heads, stride))
    replays = {desc.num_reqs: graph for desc, graph in graphed.graphs.graphs.items()}
    assert sorted(replays) == SIZES
    assert same_state(eager.decoder, graphed.decoder), "recording changed a request's history"

    drafted = set()
    for seed in range(STEPS):
        num_reqs = 1 + seed % MAX_REQS
        wanted = eager.propose(**make_step(num_reqs, seed)).clone()
        got = graphed.propose(**make_step(num_reqs, seed))
        assert torch.equal(got, wanted), f"step {seed} of {num_reqs} requests"
        assert same_state(eager.decoder, graphed.decoder)
        drafted.update(wanted.flatten().tolist())
    assert len(drafted) > 20, "drafts that never vary would prove nothing"
    steps = [1 + seed % MAX_REQS for seed in range(STEPS)]
    for size, below in zip(SIZES, [0, *SIZES], strict=False):
        assert replays[size].replays == sum(below < n <= size for n in steps)


@pytest.mark.parametrize(("kind", "choice"), CHOSEN)
def test_graphs_choose_as_eager_code_does(
    monkeypatch: pytest.MonkeyPatch, kind: str, choice: str
) -> None:
    """Tokens drawn by each step's own seeds, positions and temperatures, what they were drawn from,
    and how confident they are; nothing of padded rows reaches a request."""
    monkeypatch.setattr("vllm_lmtp.runner_v2.seeded.gumbel_sample", keyed_sample)
    eager = make_speculator(make_decoder(kind, 3, 2), choice)
    best = make_speculator(make_decoder(kind, 3, 2))
    graphed = with_graphs(monkeypatch, make_decoder(kind, 3, 2), choice=choice)
    if "drawn" in choice:
        assert not graphed.draft_logits[:MAX_REQS].any(), "recording wrote to a request's row"
    others = 0
    for seed in range(STEPS):
        step = make_step(1 + seed % MAX_REQS, seed)
        count = step["input_batch"].num_reqs
        wanted, got = eager.propose(**step), graphed.propose(**step)
        assert torch.equal(got, wanted), f"step {seed} of {count} requests"
        assert same_state(eager.decoder, graphed.decoder)
        if "confident" in choice:
            confidence = graphed.draft_token_confidence_probs[:count]
            torch.testing.assert_close(confidence, eager.draft_token_confidence_probs[:count])
            assert ((confidence >= 0) & (confidence <= 1)).all()
            assert confidence.any()
        if "drawn" in choice:
            kept = graphed.draft_logits[:MAX_REQS], eager.draft_logits[:MAX_REQS]
            torch.testing.assert_close(*kept)
        others += int((best.propose(**step) != got).sum())
    assert (others > 100) == ("drawn" in choice), "draws that are the best would prove nothing"
    assert sum(g.replays for g in graphed.graphs.graphs.values()) == STEPS * SIZES[-1] // MAX_REQS


def test_each_number_of_drafts_has_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamic speculation: six drafts up to two requests, then two, then none; never four. A step
    without drafts has no graph, as it sets its rows aside on the host, and what it left undone is
    done before a graph reads the history."""
    schedule = [(1, 2, 6), (3, MAX_REQS - 1, 2), (MAX_REQS, MAX_REQS, 0)]
    eager = make_speculator(make_decoder("none", 3, 2))
    decoder = make_decoder("none", 3, 2)
    decoder.history = LazyHistory(SLOTS, 2, HIDDEN, torch.float32, "cpu")
    graphed = with_graphs(monkeypatch, decoder, schedule)
    assert {d.uniform_token_count for d in graphed.graphs.graphs} == {3, 7}
    for seed, wanted in enumerate([6, 2, 4, 0, 6, 0, 0, 2, 4]):
        step = make_step(2, seed)
        expected = eager.propose(**step, num_speculative_tokens=wanted)[:, :wanted].clone()
        before = sum(g.replays for g in graphed.graphs.graphs.values())
        got = graphed.propose(**step, num_speculative_tokens=wanted)[:, :wanted]
        assert torch.equal(got, expected)
        replayed = sum(g.replays for g in graphed.graphs.graphs.values()) - before
        assert replayed == (wanted in (2, 6))


def test_a_dummy_run_replays_and_leaves_every_request_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphed = with_graphs(monkeypatch, make_decoder("markov", 3, 2))
    untouched = make_decoder("markov", 3, 2)
    graphed.propose(**make_step(3, 1), dummy_run=True)
    assert sum(graph.replays for graph in graphed.graphs.graphs.values()) == 1
    assert same_state(graphed.decoder, untouched)


@pytest.mark.parametrize("mode", ["FULL", "PIECEWISE", "FULL_AND_PIECEWISE", "FULL_DECODE_ONLY"])
def test_any_use_of_graphs_gives_the_draft_its_own(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    graphed = with_graphs(monkeypatch, make_decoder("none", 3, 2), mode=mode)
    assert len(graphed.graphs.graphs) == len(SIZES)


def test_without_graphs_the_draft_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with --enforce-eager, and after vLLM has dropped the graphs of its memory profile."""
    eager = make_speculator(make_decoder("none", 3, 2))
    speculator = with_graphs(monkeypatch, make_decoder("none", 3, 2), mode="NONE")
    for seed in range(4):
        if seed == 2:
            speculator.graphs = None
        wanted = eager.propose(**make_step(3, seed)).clone()
        assert torch.equal(speculator.propose(**make_step(3, seed)), wanted)


def test_released_graphs_are_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = make_speculator(make_decoder("none", 3, 2))
    graphed = with_graphs(monkeypatch, make_decoder("none", 3, 2))
    graphed.graphs.release_graphs()
    wanted = eager.propose(**make_step(3, 0)).clone()
    assert torch.equal(graphed.propose(**make_step(3, 0)), wanted)
