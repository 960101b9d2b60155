"""How a time is divided, and that what was decided is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_lmtp.errors import LMTPError
from vllm_lmtp.tools.recipe import plan
from vllm_lmtp.tools.recipe.plan import Plan
from vllm_lmtp.training.data.held_answers import spread
from vllm_lmtp.training.data.kept_rows import Answer

ASKED = {"model": "m", "minutes": 5.0}


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_decision_is_made_once(tmp_path: Path) -> None:
    clock = Clock()
    first = Plan(tmp_path / "work" / "plan.json", ASKED, 300, clock)
    clock.now += 40
    assert first.left() == 260
    assert first.decide("shards", lambda: 7) == 7
    clock.now += 1000
    # Interrupted and begun again: what came after the last decision is forgotten.
    again = Plan(tmp_path / "work" / "plan.json", ASKED, 300, clock)
    assert again.spent() == 40
    assert again.decide("shards", lambda: 8) == 7
    clock.now += 500
    assert again.left() == 0


def test_another_run_is_refused(tmp_path: Path) -> None:
    Plan(tmp_path / "plan.json", ASKED, 300).decide("shards", lambda: 1)
    with pytest.raises(LMTPError, match=r"plan.json: minutes.*found 5.0.*expected 9"):
        Plan(tmp_path / "plan.json", ASKED | {"minutes": 9.0}, 300)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("left", "start", "taken"), [(300, 20, 5), (3600, 60, 90), (30, 20, 50)])
def test_answers_take_their_share(workers: int, left: float, start: float, taken: float) -> None:
    done = 2 * workers
    count = plan.num_shards(left, start, [taken] * workers, done)
    seconds = (count - done) / workers * taken
    assert seconds + start <= plan.ANSWERING * left or count == done
    assert seconds + taken + start > plan.ANSWERING * left


@pytest.mark.parametrize("left", [100.0, 1000.0, 10_000.0])
@pytest.mark.parametrize(("step", "token"), [(0.05, 1e-4), (0.5, 1e-3), (3.0, 5e-3)])
def test_training_and_judging_take_what_is_left(left: float, step: float, token: float) -> None:
    judged = 3 * token
    found = plan.training(left, step, token, judged, tokens=10**9, positions=512)
    seconds = found["steps"] * step + plan.SAVING
    seconds += token * (plan.MEASURED * found["measured_tokens"])
    seconds += judged * plan.JUDGED * found["held_tokens"]
    # What must be done takes its time, however little is left.
    judging = max(plan.JUDGING * left, plan.JUDGED * judged * plan.LEAST_HELD)
    training = max(plan.TRAINING * left, plan.LEAST_STEPS * step + plan.SAVING)
    assert seconds <= (training + plan.MEASURING * left + judging) * 1.01
    capped = found["held_tokens"] == plan.MOST_HELD
    assert seconds >= (0.7 if capped else 0.85) * left
    assert found["measured_tokens"] <= found["held_tokens"]


def test_few_answers_are_not_gone_over_without_end() -> None:
    found = plan.training(10_000, 0.01, 1e-5, 1e-5, tokens=50_000, positions=500)
    assert found["steps"] == 1000  # ten times each position
    assert found["held_tokens"] == 10_000


def test_a_little_of_held_out_answers_is_never_nothing() -> None:
    """Else every state would be as good as the first one."""
    answers = [Answer(Path("f"), 0, 9, tuple(range(10)), "s", 0.0) for _ in range(7)]
    assert len(spread(answers, 1)) == 1
    assert len(spread(answers, 1, least=2)) == 2
    assert len(spread(answers, 10**9)) == 7
    assert spread([], 5, least=2) == []
