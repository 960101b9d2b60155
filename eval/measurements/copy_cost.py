"""What it costs to look up what a draft copies, without an engine around it.

    python -m vllm_lmtp.eval.measurements.copy_cost --output FILE.json

The texts are those of Model Runner V2: on a GPU its kernel, recorded as a CUDA graph, since that is
how it is served; torch's passes elsewhere. Torch's take their time for the longest text there may
be, which is as long as the texts are unless `--max-model-len` says more; the kernel reads no
further than each text. Tokens are random: times hardly depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from vllm_lmtp.eval.gpu.timing import as_graph
from vllm_lmtp.eval.provenance import provenance
from vllm_lmtp.formats.whole import room_for, write_json
from vllm_lmtp.runner_v2.texts import SlotTexts

WARM = 3
VOCABULARY = 32768
CACHE = 2**28
"""Bytes, more than a GPU's cache holds."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    prog = "python -m vllm_lmtp.eval.measurements.copy_cost"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument(
        "--contexts", nargs="+", type=int, default=[1024, 8192, 32768], help="tokens of each text"
    )
    parser.add_argument("--requests", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument(
        "--max-model-len", type=int, metavar="N", help="tokens a text may have; as many as it has"
    )
    parser.add_argument("--places", type=int, default=6, help="tokens that are copied")
    parser.add_argument(
        "--longest", type=int, default=8, help="length beyond which matches are equally long"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True, metavar="JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a line for each setting, and write them with their provenance."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    args = parser.parse_args(words)
    if args.max_model_len is not None and args.max_model_len < max(args.contexts):
        parser.error("--max-model-len is less than a text of --contexts has")
    torch.set_num_threads(args.threads)
    runs = []
    with torch.inference_mode():
        for run in measure(args):
            runs.append(run)
            print(line(run), file=sys.stderr)
    source = provenance(["eval.measurements.copy_cost", *words], seed=0)
    source["command"] = source["command"].replace("vllm-lmtp ", "python -m vllm_lmtp.", 1)
    asked = {name: getattr(args, name) for name in ("places", "longest", "threads", "rounds")}
    result = {"kind": "copy_cost", "device": args.device} | asked | {"runs": runs}
    with room_for(args.output):
        write_json(args.output, result | {"provenance": source})
    return 0


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One run for each context and number of requests."""
    device = torch.device(args.device)
    for context in args.contexts:
        limit = args.max_model_len or context
        for requests in args.requests:
            texts = slot_texts(requests, context, limit, device)
            look_up = _look_up(texts, torch.arange(requests, device=device), args)
            timed = _timed_on_gpu if device.type == "cuda" else _timed_on_cpu
            setting = {"context": context, "max_model_len": limit, "requests": requests}
            way = {"way": "kernel" if texts.kernels else "torch"}
            yield setting | way | timed(look_up, args.rounds)


def slot_texts(requests: int, context: int, limit: int, device: torch.device) -> SlotTexts:
    """Texts of so many requests, each `context` random tokens of at most `limit`."""
    states = SimpleNamespace(
        max_num_reqs=requests,
        max_model_len=limit,
        all_token_ids=SimpleNamespace(gpu=torch.zeros(requests, limit, dtype=torch.int32)),
        total_len=SimpleNamespace(
            gpu=torch.full((requests,), context, dtype=torch.int32, device=device)
        ),
    )
    texts = SlotTexts(states, device)  # which keeps a GPU's tokens elsewhere than vLLM does
    seeded = torch.Generator(device).manual_seed(0)
    states.all_token_ids.gpu.random_(0, VOCABULARY, generator=seeded)
    return texts


def _look_up(
    texts: SlotTexts, slots: torch.Tensor, args: argparse.Namespace
) -> Callable[[], object]:
    return lambda: texts.copied(slots, args.places, args.longest)


def _timed_on_cpu(look_up: Callable[[], object], rounds: int) -> dict[str, float]:
    wall, processor = [], []
    for round_number in range(-WARM, rounds):
        start, used = time.perf_counter(), time.process_time()
        look_up()
        if round_number >= 0:
            wall.append(1e3 * (time.perf_counter() - start))
            processor.append(1e3 * (time.process_time() - used))
    # What this process had of the processor is less troubled by what else the machine does.
    return spread(wall) | {"processor_median_ms": statistics.median(processor)}


def _timed_on_gpu(look_up: Callable[[], object], rounds: int) -> dict[str, float]:
    """By the device's own clock."""
    replay = as_graph(look_up)
    cache = torch.empty(CACHE, dtype=torch.uint8, device="cuda")
    event: Any = torch.cuda.Event
    events = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(rounds + WARM)]
    for begin, end in events:
        cache.zero_()  # between two look-ups a step reads the whole model
        begin.record()
        replay()
        end.record()
    torch.cuda.synchronize()
    return spread([begin.elapsed_time(end) for begin, end in events[WARM:]])


def spread(milliseconds: Sequence[float]) -> dict[str, float]:
    """The median of the rounds, and how far they lie apart."""
    return {
        "median_ms": statistics.median(milliseconds),
        "min_ms": min(milliseconds),
        "max_ms": max(milliseconds),
    }


def line(run: dict[str, Any]) -> str:
    """One run for the eye."""
    processor = run.get("processor_median_ms")
    return (
        f"{run['context']:6d} of {run['max_model_len']:6d} tokens, {run['requests']:3d} requests, "
        f"{run['way']}: {run['median_ms']:9.3f} ms ({run['min_ms']:.3f} to {run['max_ms']:.3f})"
        + ("" if processor is None else f", processor {processor:.3f} ms")
    )


if __name__ == "__main__":
    sys.exit(main())
