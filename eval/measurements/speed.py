"""Speed of several methods on the same prompts, side by side.

Every engine has a process of its own, is started outside the clock, and answers some prompts first.
Within a round all methods take a load one after another, and the order changes with every round, so
that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from vllm_lmtp.eval.engines.alive import Alive
from vllm_lmtp.eval.engines.cache import Load, needed_gib
from vllm_lmtp.eval.engines.cells import Cell, CellStore, cell_of, key_of
from vllm_lmtp.eval.engines.methods import PLAIN, Method, stamp_of
from vllm_lmtp.eval.engines.process import EngineFailedError, EngineProcess, Job
from vllm_lmtp.eval.measurements.rates import summarise
from vllm_lmtp.eval.prompts.asking import Progress, Questions, Settings
from vllm_lmtp.eval.prompts.contexts import Context, prompts
from vllm_lmtp.eval.prompts.lengths import mixed_lengths
from vllm_lmtp.eval.provenance import versions
from vllm_lmtp.formats.tokenizer import has_tokenizer

WARM_UP_TOKENS = 8
# Of a device's memory; the engines of a comparison share it.
SHARED_MEMORY = 0.9
Item = TypeVar("Item")


@dataclass(frozen=True)
class Plan:
    """streams: loads to measure. rounds: of each. least: requests of a load at the least.
    per_stream: requests for each stream. eager: not compiled. alive: engines at once, at most;
    None for all. threads: of the CPU, for each engine. contexts: tokens of the prompts, each with
    every load. processes: as in `process.Job`. mixed: whether answers have many lengths."""

    streams: tuple[int, ...]
    rounds: int
    least: int
    per_stream: int
    eager: bool
    alive: int | None
    threads: int
    contexts: tuple[Context, ...] = (None,)
    processes: bool = False
    mixed: bool = False

    def loads(self) -> list[tuple[int, Context]]:
        """Every number of streams with every context."""
        return list(product(self.streams, self.contexts))

    def requests(self, streams: int) -> int:
        """How many requests a load has."""
        return max(self.least, self.per_stream * streams)

    def asked(
        self, questions: Questions, streams: int, context: Context, number: int
    ) -> list[list[int]]:
        """The prompts of a load in round `number`: those that come after the round before's, so
        that rounds differ as prompts do, and what they agree on is true of more than a few."""
        count = self.requests(streams)
        return prompts(questions, count, context, number * count)

    def answers(self, streams: int, max_tokens: int) -> int | list[int]:
        """How long the answers of a load are: all at most `max_tokens`, or each from a third of it
        to the whole."""
        if not self.mixed:
            return max_tokens
        return mixed_lengths(2 * max_tokens // 3, self.requests(streams))

    def all_asked(self, questions: Questions) -> list[Load]:
        """The prompts of every load in every round."""
        return [
            (self.asked(questions, streams, context, number), streams)
            for streams, context in self.loads()
            for number in range(self.rounds)
        ]

    def turn_facts(self, streams: int, number: int) -> dict[str, Any]:
        """What a cell depends on beside the method. In the first round, in the words of the time
        when all rounds had its prompts."""
        first = number * self.requests(streams)
        return {"streams": streams, "round": number} | ({"first": first} if first else {})

    def facts(self) -> dict[str, Any]:
        """What a report says, and what cells depend on beside their load."""
        facts = {
            "per_stream": self.per_stream,
            "least": self.least,
            "eager": self.eager,
            "threads": self.threads,
        }
        others = {"processes": self.processes, "mixed": self.mixed}
        return facts | {name: True for name, wanted in others.items() if wanted}


def measure(
    methods: Sequence[Method],
    questions: Questions,
    settings: Settings,
    plan: Plan,
    cells_file: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """All cells, of which those that `cells_file` holds already are not measured again.

    Args:
        methods: plain decoding first.
    """
    store = CellStore(cells_file)
    common = common_facts(questions, settings, plan)
    wanted = [m for m in methods if m.why_not is None]
    left_out = {m.name: m.why_not for m in methods if m.why_not is not None}
    engines = Engines(settings, questions, plan, plan.alive or len(wanted), progress)
    found: dict[tuple[str, int, Context], list[Cell]] = {}
    total = plan.rounds * len(plan.loads()) * len(wanted)
    done = 0
    try:
        for number in range(plan.rounds):
            for streams, context in plan.loads():
                for method in turned(wanted, number):
                    done += 1
                    if method.name in left_out:
                        continue
                    facts = {"method": method.stamp()} | plan.turn_facts(streams, number)
                    where = f"[{done}/{total}] round {number + 1}, {streams} stream(s)"
                    if context is not None:
                        facts["context"] = context
                        where += f" of {context} tokens"
                    key = key_of(common | facts)
                    cell = store.get(key)
                    try:
                        if cell is None:
                            engine = engines.get(method)
                            asked = plan.asked(questions, streams, context, number)
                            answers = plan.answers(streams, settings.max_tokens)
                            cell = cell_of(engine.stream(asked, streams, answers))
                            store.put(key, cell)
                            progress(
                                f"{where}, {method.name}: {cell.tokens / cell.seconds:.1f} tokens/s"
                            )
                        else:
                            progress(f"{where}, {method.name}: measured before")
                    except EngineFailedError as error:
                        progress(f"{where}, {method.name}: {error}")
                        if method.name == PLAIN:
                            raise
                        left_out[method.name] = str(error)
                        engines.drop(method)
                        continue
                    found.setdefault((method.name, streams, context), []).append(cell)
    finally:
        engines.close()
    measured = [m for m in wanted if m.name not in left_out]
    loads = []
    for streams, context in plan.loads():
        plain = found[PLAIN, streams, context]
        for method in measured:
            cells = found[method.name, streams, context]
            rates = summarise(cells, None if method.name == PLAIN else plain)
            load = {"method": method.name, "streams": streams, "context": context}
            loads.append(load | rates)
    return {
        "plan": {
            "streams": list(plan.streams),
            "contexts": list(plan.contexts),
            "rounds": plan.rounds,
            **plan.facts(),
        },
        "methods": [m.facts() for m in measured],
        "not_measured": [{"name": name, "why": why} for name, why in left_out.items()],
        "speed": loads,
    }


def differences(result: dict[str, Any]) -> int:
    """Answers, over all loads and rounds, that are not plain decoding's."""
    return sum(
        len(load["answers"]["first_differences"]) for load in result["speed"] if load["answers"]
    )


def common_facts(questions: Questions, settings: Settings, plan: Plan) -> dict[str, Any]:
    """What every cell of a run depends on."""
    return {
        "versions": versions(),
        "model": settings.model,
        "files": stamp_of(settings.model),
        "dtype": settings.dtype,
        "max_tokens": settings.max_tokens,
        # As they are asked, since what shares a batch depends on their order.
        "prompts": prompts(questions, len(questions.asked)),
        "slots": max(plan.streams),
        **plan.facts(),
    }


class Engines:
    """The engines of a comparison, each started when it is first needed.

    Args:
        most: how many at once; fewer where memory is short.
    """

    def __init__(
        self,
        settings: Settings,
        questions: Questions,
        plan: Plan,
        most: int,
        progress: Progress,
    ) -> None:
        self.settings, self.questions, self.plan, self.most = settings, questions, plan, most
        self._alive: Alive[EngineProcess] = Alive(most, progress)

    def get(self, method: Method) -> EngineProcess:
        """The method's engine, warm.

        Raises:
            EngineFailedError: it cannot be started.
        """
        return self._alive.get(method.name, partial(self._start, method))

    def drop(self, method: Method) -> None:
        """End the engine of a method that failed."""
        self._alive.drop(method.name)

    def close(self) -> None:
        """End all of them."""
        self._alive.close()

    def _start(self, method: Method) -> EngineProcess:
        loads = self.plan.all_asked(self.questions)
        engine = EngineProcess(
            Job(
                self.settings.model,
                method.speculative_config,
                has_tokenizer(self.settings.model),
                {
                    "dtype": self.settings.dtype,
                    "max_num_seqs": max(self.plan.streams),
                    "max_model_len": self.questions.context,
                    "enforce_eager": self.plan.eager,
                    "gpu_memory_utilization": SHARED_MEMORY / self.most,
                },
                self.plan.processes,
                needed_gib(method, self.questions, self.settings, loads),
            )
        )
        try:
            for streams in self.plan.streams:
                engine.stream(prompts(self.questions, streams), streams, WARM_UP_TOKENS)
        except EngineFailedError:
            engine.close()
            raise
        return engine


def turned(items: Sequence[Item], number: int) -> list[Item]:
    """The order of a round. Two rounds in a row are each other's reverse, so that a machine that
    grows slower meanwhile does so for all alike; each such pair begins elsewhere."""
    start = number // 2 % len(items)
    order = [*items[start:], *items[:start]]
    return order[::-1] if number % 2 else order
