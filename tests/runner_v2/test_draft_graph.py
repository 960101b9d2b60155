"""The draft step of Model Runner V2: what a CUDA graph can hold, and right when one holds it."""

from __future__ import annotations

import pytest
import torch

from tests.support.copy_search import continuation, longest_match
from tests.support.graph_guard import GraphSafe
from tests.support.one_rank_world import one_process_world  # noqa: F401
from tests.support.speculators import (
    HIDDEN,
    MAX_REQS,
    SIZES,
    SLOTS,
    keyed_sample,
    make_decoder,
    make_speculator,
    make_states,
    make_step,
    on_meta,
    same_state,
    sources_of,
    with_graphs,
    write_texts,
)
from vllm_lmtp.method.copying import Origin
from vllm_lmtp.method.lazy_history import LazyHistory

SCORERS = ["none", "markov", "recurrent", "table"]
CHOSEN = [
    *(("markov", choice) for choice in ("confident", "drawn", "confident and drawn")),
    ("none", "confident"),
]
"""Without a scorer, confidence comes with the best tokens of all places at once."""
COPIED = [
    *(("none", choice) for choice in ("best", "confident", "drawn", "confident and drawn")),
    ("markov", "best"),
    ("recurrent", "confident and drawn"),
]
STEPS = 2 * MAX_REQS


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
    drafts = speculator.propose(**on_meta(make_step(5, 0)))
    assert (drafts.shape, drafts.device.type) == ((5, 6), "meta")


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


# --- drafts that copy from the text ---------------------------------------------------------------


@pytest.mark.parametrize(("kind", "choice"), COPIED)
def test_drafts_that_copy_can_be_recorded(
    monkeypatch: pytest.MonkeyPatch, kind: str, choice: str
) -> None:
    """Whatever the texts say and however long they are."""
    monkeypatch.setattr("vllm_lmtp.runner_v2.seeded.gumbel_sample", keyed_sample)
    states = make_states()
    speculator = make_speculator(make_decoder(kind, 3, 2, states=states), choice)
    logs = []
    for seed in range(3):
        write_texts(states, seed)
        step = make_step(5, seed, [1, 5, 2, 6, 1])
        for wanted in (None, 1):
            with GraphSafe() as guard:
                speculator.propose(**step, num_speculative_tokens=wanted)
            logs.append(guard.log)
    assert len(logs[0]) > len(logs[1]) > 0
    assert logs[0:2] == logs[2:4] == logs[4:6]


@pytest.mark.parametrize("choice", ["best", "confident and drawn"])
def test_drafts_that_copy_need_no_data(monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    monkeypatch.setattr("vllm_lmtp.runner_v2.seeded.gumbel_sample", keyed_sample)
    decoder = make_decoder("markov", 3, 2, "meta", states=make_states(device="meta"))
    speculator = make_speculator(decoder, choice)
    speculator.lmtp_sources.add = lambda *sent: None  # it sends to the host
    drafts = speculator.propose(**on_meta(make_step(5, 0)))
    assert (drafts.shape, drafts.device.type) == ((5, 6), "meta")


@pytest.mark.parametrize(("kind", "choice"), COPIED)
def test_graphs_copy_as_eager_code_does(
    monkeypatch: pytest.MonkeyPatch, kind: str, choice: str
) -> None:
    """Of each step's own texts and slots, though a graph was recorded without any; nothing of
    padded rows reaches a request."""
    monkeypatch.setattr("vllm_lmtp.runner_v2.seeded.gumbel_sample", keyed_sample)
    states = make_states()
    eager = make_speculator(make_decoder(kind, 3, 2, states=states), choice)
    graphed = with_graphs(monkeypatch, make_decoder(kind, 3, 2, states=states), choice=choice)
    places: list[int] = []
    for seed in range(STEPS):
        write_texts(states, seed)
        step = make_step(1 + seed % MAX_REQS, seed)
        count = step["input_batch"].num_reqs
        wanted, got = eager.propose(**step), graphed.propose(**step)
        assert torch.equal(got, wanted), f"step {seed} of {count} requests"
        assert same_state(eager.decoder, graphed.decoder)
        origins = sources_of(graphed)
        assert list(origins) == step["input_batch"].req_ids
        assert origins == sources_of(eager)
        places += [place for row in origins.values() for place in row]
        if "confident" in choice:
            confidence = graphed.draft_token_confidence_probs[:count]
            torch.testing.assert_close(confidence, eager.draft_token_confidence_probs[:count])
        if "drawn" in choice:
            kept = graphed.draft_logits[:MAX_REQS], eager.draft_logits[:MAX_REQS]
            torch.testing.assert_close(*kept)
    assert sum(g.replays for g in graphed.graphs.graphs.values()) == STEPS * SIZES[-1] // MAX_REQS
    copied = places.count(Origin.TEXT)
    assert min(copied, len(places) - copied) > 100, "heads and texts both have a say"
    assert places.count(Origin.AGAINST_TEXT) > 10


@pytest.mark.parametrize("choice", ["best", "confident"])
def test_graphs_copy_what_a_search_finds(monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    """Texts that outweigh every head, so that the whole draft is theirs; without a match it is that
    of the heads alone."""
    states, certain = make_states(), (30.0,) * 8
    alone = make_speculator(make_decoder("markov", 3, 2), choice)
    decoder = make_decoder("markov", 3, 2, states=states, odds=certain)
    graphed = with_graphs(monkeypatch, decoder, choice=choice)
    copies = 0
    for seed in range(STEPS):
        texts = write_texts(states, seed, highest=9)
        step = make_step(1 + seed % SIZES[-1], seed)
        of_heads = alone.propose(**step).tolist()
        drafts, origins = graphed.propose(**step).tolist(), sources_of(graphed)
        slots = step["input_batch"].idx_mapping.tolist()
        for row, (slot, whence) in enumerate(zip(slots, origins.values(), strict=True)):
            distance, length = longest_match(texts[slot], len(certain))
            found = continuation(texts[slot], distance, 6) if length else of_heads[row]
            assert drafts[row] == found
            assert whence == [Origin.TEXT if length else Origin.HEADS] * 6
            copies += length > 0
            if "confident" in choice and length:
                sure = graphed.draft_token_confidence_probs[row]
                torch.testing.assert_close(sure, torch.ones(6))
    assert sum(g.replays for g in graphed.graphs.graphs.values()) == STEPS
    assert copies > 50


@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_sources_are_of_the_places_that_were_wanted(wanted: int) -> None:
    states = make_states([[5, 6, 7, 5, 6]] * MAX_REQS)
    speculator = make_speculator(make_decoder("none", 3, 2, states=states, odds=(30.0,)))
    step = make_step(3, 0)
    speculator.propose(**step, num_speculative_tokens=wanted)
    req_ids = step["input_batch"].req_ids
    assert sources_of(speculator) == dict.fromkeys(req_ids, [Origin.TEXT] * wanted)


@pytest.mark.parametrize("unjudged", [{"dummy_run": True}, {"num_speculative_tokens": 0}])
def test_what_nobody_judges_has_no_sources(unjudged: dict[str, int]) -> None:
    speculator = make_speculator(make_decoder("none", 3, 2, states=make_states()))
    speculator.propose(**make_step(3, 0), **unjudged)
    assert sources_of(speculator) == {}
