"""Engines that take turns in too little memory."""

from __future__ import annotations

import pytest

from tests.eval.measurements.test_speed import QUESTIONS, SETTINGS, TURNS
from vllm_lmtp.eval.engines.alive import SPARE, Alive, free_memory
from vllm_lmtp.eval.engines.methods import Method
from vllm_lmtp.eval.engines.process import EngineFailedError
from vllm_lmtp.eval.measurements import speed


class Machine:
    """A machine with room for so many engines of 3 GiB."""

    def __init__(self, room: int) -> None:
        self.free = room * (3 * 2**30) + SPARE
        self.least = self.free
        self.started: list[str] = []

    def start(self, name: str) -> Machine.Engine:
        self.started.append(name)
        return Machine.Engine(self)

    class Engine:
        """Takes memory until it is closed."""

        def __init__(self, machine: Machine) -> None:
            self.machine = machine
            machine.free -= 3 * 2**30
            machine.least = min(machine.least, machine.free)

        def close(self) -> None:
            self.machine.free += 3 * 2**30


def turns(machine: Machine, most: int | None, names: str, times: int) -> list[str]:
    """What is said of all that take their turn so many times."""
    said: list[str] = []
    alive: Alive[Machine.Engine] = Alive(most, said.append, lambda: machine.free)
    before = machine.free
    for name in names * times:
        alive.get(name, lambda name=name: machine.start(name))
    alive.close()
    assert machine.free == before
    return said


def test_all_stay_where_there_is_room() -> None:
    machine = Machine(3)
    assert turns(machine, None, "abc", 5) == [f"{n}: starting" for n in "abc"]
    assert machine.started == ["a", "b", "c"]


def test_memory_never_runs_out_and_few_are_started_anew() -> None:
    """Two have room for the twelve turns of three. Closing the one that has rested longest would
    start every one of them anew."""
    machine = Machine(2)
    said = turns(machine, None, "abc", 4)
    assert machine.least == SPARE
    assert machine.started == ["a", "b", "c", "b", "a", "c", "b"]
    assert said.count("b: closed until its turn, as memory is short") == 2


def test_one_always_starts() -> None:
    """The first is tried whatever memory there is, since nobody knows what it takes."""
    machine = Machine(0)
    turns(machine, None, "ab", 1)
    assert machine.started == ["a", "b"]


def test_no_more_than_may_be() -> None:
    machine = Machine(9)
    turns(machine, 1, "ab", 2)
    assert machine.started == ["a", "b", "a", "b"]
    assert machine.free - machine.least == 3 * 2**30


def test_one_that_failed_makes_room() -> None:
    machine = Machine(1)
    alive: Alive[Machine.Engine] = Alive(None, lambda text: None, lambda: machine.free)
    alive.get("a", lambda: machine.start("a"))
    alive.drop("a")
    alive.drop("never started")
    assert machine.free == 3 * 2**30 + SPARE


def test_an_engine_that_fails_to_warm_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Dying:
        def __init__(self, job: object) -> None: ...

        def stream(self, *words: object) -> None:
            raise EngineFailedError("died")

        def close(self) -> None:
            closed.append("it")

    monkeypatch.setattr("vllm_lmtp.eval.measurements.speed.EngineProcess", Dying)
    with pytest.raises(EngineFailedError, match="died"):
        speed.measure([Method("plain")], QUESTIONS, SETTINGS, TURNS, None, print)
    assert closed == ["it"]


def test_free_memory_is_the_systems() -> None:
    """What Linux calls available."""
    with open("/proc/meminfo", encoding="ascii") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    assert free_memory() == pytest.approx(kib * 1024, rel=0.2)
