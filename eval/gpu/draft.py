"""Times the draft alone, for the sizes of the paper's models, against the memory floor.

    python -m vllm_lmtp.eval.gpu.draft --out build/gpu

Torch and Triton only; no vLLM, no checkpoint. One result holds, for each model, dtype of the output
matrices, scorer, way (eager or graph) and batch size: the time of a draft, the bytes it must read,
and their ratio to the floor, which is those bytes over the bandwidth of a copy timed in the same
run; and how often the drafted token is the best in float64. Weights are random: times do not depend
on them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from vllm_lmtp.eval.gpu.dimensions import MODELS, Dimensions
from vllm_lmtp.eval.gpu.heads import RandomHeads, make_decoder, term_scorer
from vllm_lmtp.eval.gpu.output import save
from vllm_lmtp.eval.gpu.timing import as_graph, copy_bandwidth, median_seconds
from vllm_lmtp.formats.scorer_tensors import TERMS
from vllm_lmtp.runner_v2.draft_inputs import DraftInputs

CHECKED_ROWS = 16
RANK = 64


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vllm_lmtp.eval.gpu.draft", description=__doc__)
    paper = [name for name in MODELS if name != "tiny"]
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=paper)
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=["bfloat16", "int8", "fp8"],
        default=["bfloat16", "int8", "fp8"],
    )
    parser.add_argument("--scorers", nargs="+", choices=["none", *TERMS], default=["none"])
    parser.add_argument("--products", nargs="+", choices=["kernel", "torch"])
    parser.add_argument("--batches", nargs="+", type=int, default=[2**i for i in range(9)])
    parser.add_argument(
        "--draft-vocab", type=int, help="rows of the output matrices; V if left out"
    )
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder for result and picture")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write `draft.json` and `draft.png`."""
    args = build_parser().parse_args(argv)
    device = torch.device(args.device)
    products = args.products or (["kernel", "torch"] if device.type == "cuda" else ["torch"])
    size = 2**30 if device.type == "cuda" else 2**24
    with torch.inference_mode():
        bandwidth = copy_bandwidth(device, args.repeats, size)
        result: dict[str, Any] = {"bandwidth": bandwidth, "draft_vocab": args.draft_vocab}
        result["runs"] = runs = []
        words = ["eval.gpu.draft", *(sys.argv[1:] if argv is None else argv)]
        for name in args.models:
            for product, held in itertools.product(products, args.dtypes):
                if product == "torch" and held != "bfloat16" and device.type == "cuda":
                    continue  # undone at load, they would be bfloat16 once more
                for run in measure(MODELS[name], held, product == "kernel", device, args):
                    runs.append({"model": name, "dtype": held, "product": product} | run)
                    runs[-1]["of_floor"] = runs[-1]["seconds"] * bandwidth / runs[-1]["bytes"]
                    print(line(runs[-1]), file=sys.stderr)
            # After each, since the next may run out of time or memory.
            save("draft", result, words, args.out)
    return 0


def measure(
    size: Dimensions, held: str, kernels: bool, device: torch.device, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Every scorer, way and batch of one model in one dtype."""
    rows = args.draft_vocab or size.vocab
    dtype = torch.bfloat16
    heads = RandomHeads(size, rows, dtype, held, kernels, device)
    states = torch.randn(CHECKED_ROWS, size.hidden, device=device).to(dtype)
    agreement = agreement_with_float64(heads, states, size.n_heads)
    places = size.n_heads * size.stride
    for kind, batch in itertools.product(args.scorers, args.batches):
        scorer = None
        if kind in TERMS:
            scorer = term_scorer(kind, size.hidden, rows, RANK, dtype, device)
        decoder = make_decoder(size, heads, scorer, batch, device)
        inputs = DraftInputs(batch, size.stride, size.hidden, batch, dtype, device)
        inputs.hidden.normal_()
        # One new row a request, whose older rows are remembered: the commonest step.
        inputs.slots.copy_(torch.arange(batch, device=device))

        def draft(decoder: Any = decoder, inputs: DraftInputs = inputs, batch: int = batch) -> Any:
            return decoder.draft(*inputs.views(batch), places, inputs.sampled)

        read = heads.num_bytes
        if scorer is not None:  # its matrix is read for every place
            read += places * scorer.output.numel() * scorer.output.element_size()
        ways: dict[str, Callable[[], Any]] = {"eager": draft}
        if device.type == "cuda":
            ways["graph"] = as_graph(draft)
        for way, run in ways.items():
            yield {
                "scorer": kind,
                "batch": batch,
                "way": way,
                "seconds": median_seconds(run, device, args.repeats),
                "bytes": read,
            } | agreement


def agreement_with_float64(
    heads: RandomHeads, states: torch.Tensor, n_heads: int
) -> dict[str, float]:
    """How often the drafted token is the best of the float64 logits, and the most it falls short
    of the best, as a part of the row's spread (greatest less least logit)."""
    top = heads.top_tokens(states, n_heads)
    agreed, worst = [], 0.0
    for head in range(n_heads):
        exact = heads.exact_logits(states, head)
        drafted = exact.gather(1, top[:, head : head + 1]).squeeze(1)
        best, least = exact.amax(-1), exact.amin(-1)
        agreed.append((top[:, head] == exact.argmax(-1)).double().mean())
        worst = max(worst, float(((best - drafted) / (best - least)).max()))
    return {"agreed": float(torch.stack(agreed).mean()), "worst_loss": worst}


def line(run: dict[str, Any]) -> str:
    """One run for the eye."""
    name = f"{run['model']:14s} {run['dtype']:9s} {run['product']:6s} {run['scorer']:9s}"
    return (
        f"{name} {run['way']:5s} batch {run['batch']:4d}: {run['seconds'] * 1e6:9.1f} us, "
        f"{run['bytes'] / 1e6:8.1f} MB, {run['of_floor']:6.2f} x floor, "
        f"agreed {run['agreed']:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
