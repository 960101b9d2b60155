"""What a scorer adds to the time of a draft, without an engine around it.

    python -m vllm_lmtp.eval.measurements.draft_cost HEADS [HEADS ...] --output FILE.json

Drafts are made by the module, history and decoder that serve them: those of every folder given, and
of the first one without its scorer, which the others are held against. Ways take turns, one draft
each, so that whatever else the machine does falls on all of them alike. The ratio is the median of
the rounds' ratios, once of the wall clock and once of the processor time that this process had.
Rows are random: times do not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vllm_lmtp.eval.provenance import provenance
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.scorer_tensors import TERMS
from vllm_lmtp.formats.whole import room_for, write_json
from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.lazy_history import LazyHistory
from vllm_lmtp.runner_v2.draft_inputs import DraftInputs
from vllm_lmtp.worker.cpu_term import speed_up
from vllm_lmtp.worker.scorer_weights import build_scorer, stored_output
from vllm_lmtp.worker.weights import build_heads

NONE = "none"
WARM = 3


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog=__name__, description=__doc__)
    parser.add_argument("heads", nargs="+", type=Path, metavar="HEADS", help="folders with scorers")
    parser.add_argument("--requests", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--head-dtype", default="auto", metavar="DTYPE", help="lmtp_head_dtype")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--output", type=Path, required=True, metavar="JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a line for each setting and way, and write them with their provenance."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser().parse_args(argv)
    dtype = getattr(torch, args.dtype)
    runs = []
    with torch.inference_mode(), one_process():
        ways = decoders(args.heads, dtype, max(args.requests), args.head_dtype)
        for threads in args.threads:
            torch.set_num_threads(threads)
            for requests in args.requests:
                drafts = {n: _draft(d, requests, dtype) for n, d in ways.items()}
                for run in compare(drafts, args.rounds):
                    runs.append({"threads": threads, "requests": requests} | run)
                    print(line(runs[-1]), file=sys.stderr)
    source = provenance(["eval.measurements.draft_cost", *words], seed=0)
    source["command"] = source["command"].replace("vllm-lmtp ", "python -m vllm_lmtp.", 1)
    dtypes = {"dtype": args.dtype, "head_dtype": args.head_dtype}
    result = {"kind": "draft_cost", **dtypes, "rounds": args.rounds, "runs": runs}
    with room_for(args.output):
        write_json(args.output, result | {"provenance": source})
    return 0


@contextmanager
def one_process() -> Iterator[None]:
    """A distributed world of this process alone, as vLLM's vocabulary-parallel layers need one."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, parallel_state

    with set_current_vllm_config(VllmConfig()), tempfile.TemporaryDirectory() as folder:
        init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, "gloo")
        parallel_state.initialize_model_parallel()
        try:
            yield
        finally:
            parallel_state.destroy_model_parallel()
            parallel_state.destroy_distributed_environment()


def decoders(
    folders: Sequence[Path], dtype: torch.dtype, requests: int, head_dtype: str = "auto"
) -> dict[str, BackwardDecoder]:
    """One for each folder, by the kind of its scorer, and the first one's heads without any.

    A trained term stands twice: as it is served, and with torch's product (`cpu_term.py`).
    """
    found: dict[str, BackwardDecoder] = {}
    for folder in folders:
        checkpoint = read_checkpoint(folder)
        heads = build_heads(checkpoint, dtype, head_dtype)
        history = LazyHistory(
            requests, checkpoint.schedule.stride, checkpoint.hidden_size, dtype, "cpu"
        )
        if not found:
            found[NONE] = BackwardDecoder(checkpoint.schedule, heads, history)
        rows = heads.output(0).num_embeddings_per_partition
        kind = NONE if checkpoint.scorer is None else checkpoint.scorer.kind
        for plain in (True, False) if kind in TERMS else (False,):
            scorer = build_scorer(checkpoint, 0, checkpoint.output_rows, rows, dtype)
            if not plain:
                stored = stored_output(checkpoint, 0, checkpoint.output_rows, rows)
                speed_up(scorer, stored if heads.products else None)
            name = f"{kind}, plain product" if plain else kind
            found[name] = BackwardDecoder(checkpoint.schedule, heads, history, scorer)
    return found


def compare(drafts: Mapping[str, Callable[[], object]], rounds: int) -> Iterator[dict[str, Any]]:
    """Milliseconds of each draft, by both clocks, and their ratios to the one without a scorer."""
    wall: dict[str, list[float]] = {name: [] for name in drafts}
    processor: dict[str, list[float]] = {name: [] for name in drafts}
    for round_number in range(-WARM, rounds):
        for name, draft in drafts.items():
            start, used = time.perf_counter(), time.process_time()
            draft()
            if round_number >= 0:
                wall[name].append(1e3 * (time.perf_counter() - start))
                processor[name].append(1e3 * (time.process_time() - used))
    for name in drafts:
        yield {
            "scorer": name,
            "wall_ms": statistics.median(wall[name]),
            "processor_ms": statistics.median(processor[name]),
            "wall_ratio": ratio(wall[name], wall[NONE]),
            "processor_ratio": ratio(processor[name], processor[NONE]),
        }


def line(run: Mapping[str, Any]) -> str:
    """One run for the eye."""
    return (
        f"{run['threads']} thread(s), {run['requests']:3d} requests, {run['scorer']:21s}: "
        f"{run['wall_ms']:7.2f} ms ({run['wall_ratio']:.3f}), "
        f"processor {run['processor_ms']:7.2f} ms ({run['processor_ratio']:.3f})"
    )


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def _draft(decoder: BackwardDecoder, requests: int, dtype: torch.dtype) -> Callable[[], object]:
    """The commonest step: one new row a request, whose older rows are remembered."""
    history, places = decoder.history, decoder.schedule.max_drafts
    size = history.tails.shape[-1]
    inputs = DraftInputs(
        requests, history.stride, size, history.scratch_slot, dtype, torch.device("cpu")
    )
    inputs.hidden.normal_(generator=torch.Generator().manual_seed(0))
    inputs.slots.copy_(torch.arange(requests))
    inputs.sampled.copy_(torch.arange(requests))
    return lambda: decoder.draft(*inputs.views(requests), places, inputs.sampled)


if __name__ == "__main__":
    sys.exit(main())
