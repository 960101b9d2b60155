"""The controller against engines whose best fixed length is known in hindsight."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest

from tests.support.engine_times.curves import CURVES, LENGTHS, falling, geometric, two_cores
from tests.support.engine_times.steps import Copies, Done, World, rate, run
from vllm_lmtp.length import budget
from vllm_lmtp.length.choices import in_order, spread_lengths
from vllm_lmtp.length.controller import Controller
from vllm_lmtp.length.looks import PLAIN_STEPS
from vllm_lmtp.length.sizes import size_of
from vllm_lmtp.length.step import Step

SETTLED = 200
"""Steps after which the issue asks for 97 % of the best fixed length."""
TEXTS = {
    "low": geometric(0.15),
    "mid": geometric(0.5),
    "high": geometric(0.85),
    "falling": falling,
}


def world(curve: str, streams: int, text: str, **more: object) -> World:
    settings = {"noise": 0.05, "stragglers": 0.01, "late": 2} | more
    return World(CURVES[curve], TEXTS[text], lambda at: streams, **settings)  # type: ignore[arg-type]


def settled(of: World, seeds: int, steps: int = 400) -> float:
    """Speed after the first steps as a share of the best fixed length's, mean over seeds."""
    speeds = []
    for seed in range(seeds):
        done = run(Controller(6), of, LENGTHS, steps=steps, seed=seed)
        speeds.append(done.of_best(done.at[SETTLED]))
    return sum(speeds) / seeds


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("streams", [1, 8, 32])
@pytest.mark.parametrize("curve", CURVES)
def test_within_three_percent_of_the_best_length(curve: str, streams: int, text: str) -> None:
    assert settled(world(curve, streams, text), seeds=12) >= 0.97


@pytest.mark.parametrize("late", [1, 3])
@pytest.mark.parametrize(
    ("curve", "streams", "text"),
    [
        ("memory-bound", 1, "high"),
        ("memory-bound", 32, "mid"),
        ("compute-bound", 1, "low"),
        ("compute-bound", 32, "mid"),
        ("knee", 32, "low"),
        ("two cores", 1, "mid"),
        ("two cores", 8, "high"),
        ("dear drafting", 8, "mid"),
    ],
)
def test_a_clock_twenty_percent_off(curve: str, streams: int, text: str, late: int) -> None:
    noisy = world(curve, streams, text, noise=0.2, late=late)
    assert settled(noisy, seeds=12) >= 0.97


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("streams", [1, 8])
@pytest.mark.parametrize("curve", ["memory-bound", "compute-bound", "two cores"])
def test_what_a_shape_costs_once_is_not_what_it_costs(curve: str, streams: int, text: str) -> None:
    """The first step of each number of rows takes six times as long: libraries choose kernels."""
    of = world(curve, streams, text)
    of = world(curve, streams, text, once=5 * of.time(streams, 0, 0, 0.0))
    assert settled(of, seeds=4) >= 0.97


@pytest.mark.parametrize("copies", [Copies(0.3, 0.7), Copies(0.1, 0.4), Copies(0.8, 0.9)])
@pytest.mark.parametrize("streams", [1, 8, 32])
@pytest.mark.parametrize(
    "curve", ["memory-bound", "compute-bound", "dear drafting", "two cores", "first row"]
)
def test_copies_alone_where_they_are_best(curve: str, streams: int, copies: Copies) -> None:
    """Heads are poor here, so their cost decides whether they are asked at all.

    Texts that say something in one step of ten take longer to be known than heads, which always do,
    and what is missed meanwhile is little.
    """
    of = world(curve, streams, "low", copies=copies)
    choices = (*LENGTHS, -6)
    speeds = []
    for seed in range(12):
        done = run(Controller(6, choices), of, choices, steps=600, seed=seed)
        speeds.append(done.of_best(done.at[SETTLED]))
    assert sum(speeds) / len(speeds) >= 0.95


@pytest.mark.parametrize("curve", ["memory-bound", "two cores"])
def test_what_copies_are_worth_is_seen_while_heads_draft(curve: str) -> None:
    """So one stream need not wait for looks at them, which are rare, to find the better one."""
    choices, speeds = (*LENGTHS, -6), {}
    for shared in (0.0, 0.9):
        copies = Copies(0.6, 0.85, shared)
        of = World(
            CURVES[curve], geometric(0.6), noise=0.05, stragglers=0.01, late=2, copies=copies
        )
        done = [
            run(Controller(6, choices), of, choices, steps=170, seed=seed) for seed in range(12)
        ]
        speeds[shared] = sum(one.of_best(0.0) for one in done) / len(done)
    assert speeds[0.9] >= 0.92
    assert speeds[0.9] >= speeds[0.0] + (0.02 if curve == "memory-bound" else 0.0)


@pytest.mark.parametrize("curve", ["dear drafting", "memory-bound"])
def test_looks_at_copies_do_not_stand_for_looks_at_heads(curve: str) -> None:
    """Two first drafts of heads that fail by chance must not be the last, while copies go on."""
    choices, speeds = (*LENGTHS, -6), []
    of = World(
        CURVES[curve], geometric(0.75), noise=0.05, stragglers=0.01, copies=Copies(0.3, 0.5, 0.5)
    )
    for seed in range(6):
        done = run(Controller(6, choices), of, choices, steps=1000, seed=seed)
        speeds.append(done.of_best(done.at[600]))
    assert min(speeds) >= 0.95


def test_doubt_of_drafts_is_no_reason_to_look_at_plain_decoding() -> None:
    """Plain decoding has one token a step, so a look at it tells nothing of what drafts are worth.
    More than half of the first fifty steps went there, and a quarter does."""
    of, shares = world("dear drafting", 1, "high"), []
    for seed in range(12):
        done = run(Controller(6), of, LENGTHS, steps=50, seed=seed)
        first = done.wanted.nonzero()[0][0]
        shares.append(float((done.wanted[first:] > 0).mean()))
    assert sum(shares) / len(shares) >= 0.7


@pytest.mark.parametrize("curve", ["compute-bound", "dear drafting"])
def test_looks_leave_the_length_in_use_its_steps(curve: str) -> None:
    """Looks at plain decoding, three steps each, followed each other at once while the clock was
    far off: doubt of what drafts cost wanted them, of which they tell nothing. Thirty plain steps
    in a row were seen in an engine whose drafts paid."""
    of = world(curve, 4, "high", noise=0.3)
    longest = 0
    for seed in range(6):
        controller = Controller(6)
        others = []  # of each step: whether it took another length than the one in use

        class Watched:
            def observe(self, step: Step) -> None:
                controller.observe(step)  # noqa: B023  (used within its turn)

            def choose(self, num_requests: int) -> int:
                length = controller.choose(num_requests)  # noqa: B023
                others.append(controller.in_use(num_requests) not in (0, length))  # noqa: B023
                return length

        run(Watched(), of, LENGTHS, steps=120, seed=seed)
        in_a_row = [len(list(steps)) for other, steps in groupby(others) if other]
        longest = max(longest, *in_a_row, 0)
    assert longest == PLAIN_STEPS


def test_choices_are_ordered_by_what_they_ask_for() -> None:
    assert in_order((3, -4, 1)) == (0, -4, 1, 3)


@pytest.mark.parametrize("text", ["mid", "high"])
@pytest.mark.parametrize("curve", ["memory-bound", "two cores"])
def test_a_cut_prefill_and_sizes_that_vary(curve: str, text: str) -> None:
    """Rows are counted as verified, and steps with prefill, here three times as long, are not."""
    of = world(curve, 8, text, verified=0.7, prefill_every=9, jitter=True)
    done = run(Controller(6), of, LENGTHS, steps=500)
    fixed = [run(Fixed(m), of, LENGTHS, steps=500) for m in LENGTHS]
    assert speed(done) >= 0.97 * max(map(speed, fixed))


class Fixed:
    """One length for ever."""

    def __init__(self, length: int) -> None:
        self.length = length

    def choose(self, num_requests: int) -> int:
        return self.length

    def observe(self, step: Step) -> None:
        pass


def speed(done: Done) -> float:
    """Tokens a second once settled."""
    return float(done.tokens[SETTLED:].sum() / done.seconds[SETTLED:].sum())


def never_pays(curve: str, streams: int, share: float) -> World:
    found = World(
        CURVES[curve], geometric(share), lambda at: streams, noise=0.05, stragglers=0.01, late=2
    )
    assert max(rate(found, m, streams, 0) for m in LENGTHS[1:]) < rate(found, 0, streams, 0)
    return found


NEVER = [
    ("two cores", 1, 0.05),
    ("two cores", 1, 0.2),
    ("two cores", 8, 0.1),
    ("two cores", 16, 0.2),
    ("compute-bound", 1, 0.05),
    ("compute-bound", 32, 0.3),
    ("knee", 32, 0.1),
    ("dear drafting", 1, 0.2),
    ("dear drafting", 32, 0.2),
]


@pytest.mark.parametrize(("curve", "streams", "share"), NEVER)
def test_never_slower_where_drafting_never_pays(curve: str, streams: int, share: float) -> None:
    controller = Controller(6)
    done = run(controller, never_pays(curve, streams, share), LENGTHS, seconds=30)
    assert done.worst_window(5.0) >= 0.98
    assert 0.001 < controller.looks.taken / len(done.at) < 0.13  # rare, but it does go on looking
    late = done.at > 10
    loss = 1 - done.plain[late].sum() / done.seconds[late].sum()
    assert loss <= 0.01


@pytest.mark.parametrize(("curve", "streams", "share"), NEVER[::3])
def test_looks_cost_what_the_budget_says(curve: str, streams: int, share: float) -> None:
    controller = Controller(6)
    done = run(controller, never_pays(curve, streams, share), LENGTHS, seconds=40)
    told = done.seconds.sum() * (1 + 0.09)  # a straggler in a hundred, told as ten times as long
    start = min(budget.START[0] * done.seconds.min(), budget.START[1])
    lost = done.seconds.sum() - done.plain.sum()
    assert lost <= budget.SHARE * told + start + 2 * budget.SAVED


@pytest.mark.parametrize("streams", [1, 8, 32])
@pytest.mark.parametrize("text", [0.15, 0.5])
def test_a_plain_step_that_grows_is_followed(streams: int, text: float) -> None:
    """Twice as long after 30 s, as contexts grow; no length may look better for it."""

    def growing(requests: int, rows: int, wanted: int, at: float) -> float:
        return two_cores(requests, rows, wanted, at) + 45e-3 * at / 30

    of = World(growing, geometric(text), lambda at: streams, noise=0.05, stragglers=0.01, late=2)
    done = run(Controller(6), of, LENGTHS, seconds=30)
    assert done.of_best(10.0) >= 0.97
    assert done.worst_window(5.0) >= 0.98


@pytest.mark.parametrize("streams", [1, 32])
def test_a_machine_that_is_shared_for_a_while(streams: int) -> None:
    """All steps take twice as long from 15 to 30 s."""

    def shared(requests: int, rows: int, wanted: int, at: float) -> float:
        return two_cores(requests, rows, wanted, at) * (2 if 15 <= at < 30 else 1)

    of = World(shared, geometric(0.5), lambda at: streams, noise=0.05, stragglers=0.01, late=2)
    done = run(Controller(6), of, LENGTHS, seconds=45)
    assert done.of_best(5.0) >= 0.95
    assert done.worst_window(5.0) >= 0.95


@pytest.mark.parametrize("text", ["low", "mid", "high"])
@pytest.mark.parametrize("curve", ["memory-bound", "compute-bound", "knee", "two cores"])
def test_load_from_one_to_thirty_two_and_back(curve: str, text: str) -> None:
    of = World(
        CURVES[curve], TEXTS[text], lambda at: 32 if 15 <= at < 30 else 1,
        noise=0.05, stragglers=0.01, late=2,
    )  # fmt: skip
    done = run(Controller(6), of, LENGTHS, seconds=45)
    assert done.worst_window(2.0) >= 0.95  # the floor for an open loop
    for start, end in ((17, 30), (32, 45)):
        assert done.of_best(start, end) >= 0.96, start


def change_of_text(curve: str, streams: int, before: float, after: float, seed: int = 0) -> Done:
    of = World(
        CURVES[curve], lambda at: [before if at < 20 else after] * 6, lambda at: streams,
        noise=0.05, stragglers=0.01, late=2,
    )  # fmt: skip
    return run(Controller(6), of, LENGTHS, seconds=40, seed=seed)


@pytest.mark.parametrize("streams", [1, 8, 32])
@pytest.mark.parametrize("curve", ["memory-bound", "compute-bound", "knee", "two cores"])
def test_a_text_that_turns_bad_is_noticed(curve: str, streams: int) -> None:
    done = [change_of_text(curve, streams, 0.8, 0.1, seed) for seed in range(3)]
    assert min(d.of_best(23, 30) for d in done) >= 0.9
    assert sum(d.of_best(30) for d in done) / len(done) >= 0.97


@pytest.mark.parametrize(
    ("curve", "streams", "seconds"),
    [
        ("memory-bound", 1, 3),
        ("memory-bound", 32, 5),
        ("knee", 8, 3),
        ("knee", 32, 8),
        ("two cores", 1, 10),
        ("two cores", 32, 10),
    ],
)
def test_a_text_that_turns_good_is_noticed(curve: str, streams: int, seconds: int) -> None:
    """Where nothing was drafted a look must see it, and looks are rare where they are dear."""
    done = change_of_text(curve, streams, 0.1, 0.8)
    assert done.of_best(20 + seconds, 30 + seconds) >= 0.95


def test_the_same_steps_lead_to_the_same_choices() -> None:
    of = world("two cores", 8, "falling", noise=0.2)
    first, second = (run(Controller(6), of, LENGTHS, steps=300, seed=3) for _ in range(2))
    assert first.wanted.tolist() == second.wanted.tolist()
    assert len(set(first.wanted.tolist())) > 2


def test_it_does_not_flap() -> None:
    """What is in use changes seldom once it is known, though the clock is far off."""
    controller = Controller(6)
    of = world("two cores", 8, "falling", noise=0.2)
    run(controller, of, LENGTHS, steps=300)
    used = []

    class Watched:
        def observe(self, step: Step) -> None:
            controller.observe(step)

        def choose(self, num_requests: int) -> int:
            length = controller.choose(num_requests)
            used.append(controller.in_use(num_requests))
            return length

    run(Watched(), of, LENGTHS, steps=500, seed=1)
    changes = sum(a != b for a, b in pairwise(used))
    assert changes <= 15


class Stubborn(Controller):
    """Never looks at anything but what it uses."""

    def __init__(self) -> None:
        super().__init__(6)
        self.looks.begin = lambda *_: None  # type: ignore[method-assign]


class Hopeful(Controller):
    """Always drafts as much as it can."""

    def choose(self, num_requests: int) -> int:
        return self.lengths[-1]


class Restless(Controller):
    """Looks whatever it costs."""

    def __init__(self) -> None:
        super().__init__(6)
        self.looks.budget.allows = lambda seconds: True  # type: ignore[method-assign]


def test_broken_controllers_are_found_out() -> None:
    pays = world("memory-bound", 1, "high")
    done = run(Stubborn(), pays, LENGTHS, steps=400)
    assert done.of_best(done.at[SETTLED]) < 0.97
    never = never_pays("two cores", 16, 0.2)
    for broken in (Hopeful(6), Restless()):
        assert run(broken, never, LENGTHS, seconds=20).worst_window(4.0) < 0.98


def test_it_starts_without_drafts() -> None:
    controller = Controller(6)
    assert [controller.choose(n) for n in (0, 1, 7, 300)] == [0] * 4
    for _ in range(4):
        controller.observe(Step(0.01, 4, 0, 0, 0))
        assert controller.choose(4) == 0
    assert controller.gain(4) is None
    assert controller.price_of_row(4) is None


def test_steps_that_say_nothing_of_time_are_left_out() -> None:
    controller = Controller(6)
    for _ in range(20):
        controller.observe(Step(9.0, 4, 0, 0, 0, prefill=True))
        controller.observe(Step(None, 4, 8, 2, 2, (4, 4), (4, 3)))
        controller.observe(Step(0.5, 0, 0, 0, 0))
    assert controller.sizes == {} or not controller.sizes[4].time.known
    assert controller.worth.expected(2).tokens > 2.5  # what was accepted counts all the same


@pytest.mark.parametrize(
    ("curve", "streams", "price"),
    [("compute-bound", 8, 1.5 * 8 / 17), ("memory-bound", 8, 0.05), ("two cores", 32, 0.5)],
)
def test_the_price_of_a_row(curve: str, streams: int, price: float) -> None:
    """Seconds of a row, over seconds of a token."""
    controller = Controller(6)
    run(controller, world(curve, streams, "low", stragglers=0.0), LENGTHS, seconds=20)
    found = controller.price_of_row(streams)
    assert found is not None
    assert found == pytest.approx(price, abs=0.12)
    gain = controller.gain(streams)
    assert gain is not None
    assert gain >= 0.99


def test_sizes_are_powers_of_two() -> None:
    assert [size_of(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 33)] == [1, 1, 2, 4, 4, 8, 8, 16, 64]


def test_lengths_in_use_are_few() -> None:
    assert spread_lengths(6) == LENGTHS
    assert spread_lengths(1) == (0, 1)
    assert spread_lengths(16) == (0, 1, 2, 3, 4, 6, 9, 13, 16)
    assert Controller(6).lengths == LENGTHS


def test_plain_steps_that_teach_nothing_leave_what_observing_them_would() -> None:
    """Steps of 2 ms where nothing pays: one controller observes all, the other lets many pass."""
    whole, quick = Controller(6), Controller(6)
    passed = 0
    asked = 0
    for number in range(3000):
        wanted = whole.choose(8)
        assert quick.choose(8) == wanted
        rows = 8 * asked
        seconds = 0.002 * (1 + rows / 8) * (1.05 if number % 7 else 0.9)
        accepted = [1] * asked
        step = Step(seconds, 8, rows, asked, wanted, [8] * asked, accepted)
        whole.observe(step)
        if not asked and not wanted and quick.passes(8, seconds):
            passed += 1
        else:
            quick.observe(step)
        assert (quick.now, quick.steps) == (whole.now, whole.steps)
        asked = wanted
    assert passed > 2000
    assert quick.state() == whole.state()
    assert quick.looks.budget.seconds == whole.looks.budget.seconds
