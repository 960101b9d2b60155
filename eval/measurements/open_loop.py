"""Methods under open-loop load: requests arrive at a rate, whatever became of those before them.

`eval speed` keeps a number of requests in flight, so a slow engine is asked less. Users do not wait
for each other: here they arrive as Poisson has it, over HTTP, and what counts is how long each
waits. Every method has a server, alive all along where memory holds them all, and in every round
each takes its turn with the same arrivals, as in `eval speed`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vllm_lmtp.eval.engines.alive import Alive
from vllm_lmtp.eval.engines.cache import needed_gib
from vllm_lmtp.eval.engines.methods import PLAIN, Method
from vllm_lmtp.eval.engines.process import EngineFailedError
from vllm_lmtp.eval.engines.servers import Burst, Server
from vllm_lmtp.eval.measurements.rates import over_rounds
from vllm_lmtp.eval.measurements.speed import SHARED_MEMORY, turned
from vllm_lmtp.eval.prompts.asking import Progress, Questions, Settings
from vllm_lmtp.eval.prompts.contexts import prompts

ACCEPTANCE = "spec_decode_acceptance_length"
Start = Callable[[str, Mapping[str, Any] | None, Mapping[str, Any], Path, int], Server]


@dataclass(frozen=True)
class Arrivals:
    """rates: requests a second, None for all at once. requests: of each. rounds: of each rate.
    slots: requests that run at once at most. eager: not compiled. threads: of the CPU, for each."""

    rates: tuple[float | None, ...]
    requests: int
    rounds: int
    slots: int
    eager: bool
    threads: int

    def facts(self) -> dict[str, Any]:
        """What a report says."""
        return vars(self) | {"rates": list(self.rates)}


def measure(
    methods: Sequence[Method],
    questions: Questions,
    settings: Settings,
    arrivals: Arrivals,
    progress: Progress,
    start: Start = Server,
) -> dict[str, Any]:
    """All methods at all rates.

    Args:
        methods: plain decoding first.

    Raises:
        EngineFailedError: plain decoding cannot be served.
    """
    wanted = [m for m in methods if m.why_not is None]
    left_out = {m.name: str(m.why_not) for m in methods if m.why_not is not None}
    servers: Alive[Server] = Alive(None, progress)
    found: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    with TemporaryDirectory() as logs, closing(servers):

        def warm(method: Method) -> Server:
            options = _options(questions, settings, arrivals, len(wanted))
            log = Path(logs) / f"{wanted.index(method)}.log"
            loads = [(prompts(questions, max(arrivals.requests, arrivals.slots)), arrivals.slots)]
            gib = needed_gib(method, questions, settings, loads)
            server = start(settings.model, method.speculative_config, options, log, gib)
            try:
                server.bench(_burst(questions, settings, arrivals.slots, None, 0))
            except EngineFailedError:
                server.close()
                raise
            return server

        for number in range(arrivals.rounds):
            for rate in arrivals.rates:
                burst = _burst(questions, settings, arrivals.requests, rate, number)
                for method in turned(wanted, number):
                    if method.name in left_out:
                        continue
                    try:
                        server = servers.get(method.name, partial(warm, method))
                        bench = server.bench(burst)
                    except EngineFailedError as error:
                        if method.name == PLAIN:
                            raise
                        left_out[method.name] = str(error)
                        servers.drop(method.name)
                        continue
                    found.setdefault((method.name, rate), []).append(bench)
                    progress(
                        f"round {number + 1}, {shown(rate)}, {method.name}: "
                        f"{bench['output_throughput']:.1f} tokens/s"
                    )
    measured = [m for m in wanted if m.name not in left_out]
    return {
        "arrivals": arrivals.facts(),
        "methods": [m.facts() for m in measured],
        "not_measured": [{"name": name, "why": why} for name, why in left_out.items()],
        "served": [
            {"method": m.name, "rate": rate} | summarise(found[m.name, rate], found[PLAIN, rate])
            for rate in arrivals.rates
            for m in measured
        ],
    }


def summarise(
    rounds: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """One method at one rate.

    Args:
        rounds: in full what `vllm bench serve` said in each. plain: of plain decoding in the same
            rounds.

    Returns:
        each of `numbers` with median, least, most and rounds; acceptance_length, None without
        drafts; sooner: how many times sooner than plain decoding's the median answer was complete.
    """
    found, theirs = [numbers(r) for r in rounds], [numbers(p) for p in plain]
    lengths = [r[ACCEPTANCE] for r in rounds if ACCEPTANCE in r]
    return {name: over_rounds([f[name] for f in found]) for name in found[0]} | {
        "requests": rounds[0]["completed"],
        "acceptance_length": over_rounds(lengths)["median"] if lengths else None,
        "sooner": over_rounds(
            [p["answer_ms"] / f["answer_ms"] for f, p in zip(found, theirs, strict=True)]
        ),
    }


def numbers(bench: Mapping[str, Any]) -> dict[str, float]:
    """Medians and 99th percentiles over the requests of one benchmark, in milliseconds.

    vLLM gives some of them only to benchmarks that tokenize, so all are made here from the times of
    each request; docs/evaluation.md defines them.
    """
    answers, first = bench["latencies"], bench["ttfts"]
    per_token = [
        (answer - begun) / (tokens - 1)
        for answer, begun, tokens in zip(answers, first, bench["output_lens"], strict=True)
        if tokens > 1
    ]
    return {
        "requests_per_second": bench["request_throughput"],
        "tokens_per_second": bench["output_throughput"],
        "first_token_ms": 1e3 * statistics.median(first),
        "first_token_p99_ms": 1e3 * _p99(first),
        "token_ms": 1e3 * statistics.median(per_token or [0.0]),
        "answer_ms": 1e3 * statistics.median(answers),
        "answer_p99_ms": 1e3 * _p99(answers),
    }


def _p99(values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[-1]


def shown(rate: float | None) -> str:
    """A rate in words."""
    return "all at once" if rate is None else f"{rate:g} requests/s"


def _burst(
    questions: Questions, settings: Settings, count: int, rate: float | None, seed: int
) -> Burst:
    return Burst(prompts(questions, count), settings.max_tokens, rate, seed)


def _options(
    questions: Questions, settings: Settings, arrivals: Arrivals, count: int
) -> dict[str, Any]:
    """Of `vllm serve`."""
    options: dict[str, Any] = {
        "dtype": settings.dtype,
        "max-num-seqs": arrivals.slots,
        "max-model-len": questions.context,
        "gpu-memory-utilization": SHARED_MEMORY / count,
        # Rounds repeat their prompts.
        "no-enable-prefix-caching": True,
        "seed": 0,
    }
    return options | ({"enforce-eager": True} if arrivals.eager else {})
