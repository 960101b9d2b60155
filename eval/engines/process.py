"""An engine in a process of its own.

Speeds of engines that share a process are not those of engines alone in one, and some methods keep
vLLM's CPU backend from starting another beside them. The processes of a comparison wait for their
turn without using a core.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.eval.engines.engine import CACHE_GIB, LEAST_CACHE_GIB, Run

STOP_SECONDS = 10


@dataclass(frozen=True)
class Job:
    """What the process starts: arguments of `cli.engines.Engine`. processes: with engine core and
    worker in processes of their own, as vLLM has them by default; drafting cannot be set then.
    cache_gib: of the KV cache on a CPU."""

    model: str
    speculative_config: dict[str, Any] | None
    has_tokenizer: bool
    options: dict[str, Any] = field(default_factory=dict)
    processes: bool = False
    cache_gib: int = LEAST_CACHE_GIB


class EngineFailedError(Exception):
    """The engine did not start, or died; the first line of the reason."""


@contextmanager
def refusing_failure(model: str, method: str) -> Iterator[None]:
    """Where nothing can be measured without an engine, say of its failure what refusals say.

    Raises:
        LMTPError: the target `model` cannot be served by `method`.
    """
    try:
        yield
    except EngineFailedError as error:
        raise refuse(
            model,
            method,
            found=str(error),
            expected="an engine that serves the target",
            remedy="read vLLM's log above",
        ) from error


class EngineProcess:
    """Starts an engine and waits until it is ready.

    Raises:
        EngineFailedError: it cannot be started.
    """

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # A daemon may have no processes of its own; what is none ends when its pipe is gone.
        daemon = not job.processes
        self._process = context.Process(target=_serve, args=(theirs, job), daemon=daemon)
        self._process.start()
        theirs.close()  # or its end would never be noticed
        self._receive()

    def stream(
        self, prompts: Sequence[list[int]], streams: int, max_tokens: int | Sequence[int]
    ) -> Run:
        """As `Engine.stream`.

        Raises:
            EngineFailedError: the engine died.
        """
        return Run(**self._call("stream", list(prompts), streams, max_tokens))

    def set_drafting(self, length: int, cut: float = 0.0) -> None:
        """Draft `length` tokens a step from now on, whatever the batch, down to those that are
        likelier right than `cut`.

        Raises:
            EngineFailedError: the engine was started without a schedule by batch size, or a cut is
                wanted and it was started without one.
        """
        self._call("set_drafting", length, cut)

    def close(self) -> None:
        """End the process, which stops when its pipe is gone."""
        self._pipe.close()
        self._process.join(STOP_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _call(self, *words: Any) -> Any:
        try:
            self._pipe.send(words)
        except OSError:  # it died while it rested
            raise self._ended() from None
        return self._receive()

    def _ended(self) -> EngineFailedError:
        self._process.join()
        if (code := self._process.exitcode) == -signal.SIGKILL:
            return EngineFailedError("its process was killed, as a system short of memory does")
        return EngineFailedError(f"its process ended with {code}")

    def _receive(self) -> Any:
        try:
            failure, reply = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if failure is not None:
            raise EngineFailedError(failure)
        return reply


def _serve(pipe: Any, job: Job) -> None:
    """The process: start, then answer until the other side is gone."""
    from vllm_lmtp.eval.engines.engine import Engine

    options = job.options
    os.environ.setdefault(CACHE_GIB, str(job.cache_gib))
    if job.processes:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
        options = options | {"distributed_executor_backend": "mp"}
    try:
        engine = Engine(job.model, job.speculative_config, job.has_tokenizer, **options)
        pipe.send((None, None))
    except BaseException as error:
        pipe.send((_first_line(error), None))
        raise
    while True:
        try:
            words = pipe.recv()
        except EOFError:
            engine.close()
            return
        try:
            pipe.send((None, ANSWERS[words[0]](engine, *words[1:])))
        except Exception as error:
            pipe.send((_first_line(error), None))


def _stream(
    engine: Any, prompts: list[list[int]], streams: int, max_tokens: int | Sequence[int]
) -> Any:
    run = engine.stream(prompts, streams, max_tokens)
    return vars(run) | {"counters": Counter(run.counters)}


def _set_drafting(engine: Any, length: int, cut: float) -> None:
    """The scheduler looks a batch size up in a table, which is filled anew."""
    table = engine.llm.llm_engine.engine_core.engine_core.scheduler.dynamic_sd_lookup
    table[:] = [length] * len(table)
    engine.llm.collective_rpc(_set_cut, args=(cut,))


def _set_cut(worker: Any, cut: float) -> None:
    """In the worker: Model Runner V1's drafter takes another cut from its next draft on."""
    drafter: Any = getattr(worker.model_runner, "drafter", None)
    if cut or hasattr(drafter, "least_confidence"):
        drafter.set_least_confidence(cut)


ANSWERS: dict[str, Callable[..., Any]] = {
    "stream": _stream,
    "set_drafting": _set_drafting,
}


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
