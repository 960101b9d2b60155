"""Times vLLM itself, with CUDA graphs and asynchronous scheduling: plain, L-MTP and ngram.

    python -m vllm_lmtp.eval.gpu.engine --dummy llama-3.1-8b --out build/gpu
    python -m vllm_lmtp.eval.gpu.engine --checkpoint FOLDER --out build/gpu

`--dummy` makes up the weights of a target and of its heads and lets vLLM accept drafts at given
mean lengths (its synthetic acceptance): time per step and throughput, free of how good heads are.
`--checkpoint` serves a stage-1 folder as it is: its acceptance, and whether its tokens equal plain
decoding's (in bfloat16 near ties may differ; ask for `--dtype float32` to compare). Every engine
runs in a process of its own, one after another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_lmtp.eval.gpu.dimensions import MODELS
from vllm_lmtp.eval.gpu.dummy import TARGETS, save_heads, save_target
from vllm_lmtp.eval.gpu.output import save

MARK = "<<measured>>"
PROMPT_TOKENS = 64
PROMPTS = (
    "Write a short story about a lighthouse keeper who finds a map.",
    "Explain how a heat pump works to a ten-year-old.",
    "Write a Python function that merges two sorted lists.",
    "List seven differences between TCP and UDP.",
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vllm_lmtp.eval.gpu.engine", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dummy", choices=list(TARGETS), help="sizes of a target without weights")
    what.add_argument("--checkpoint", help="stage-1 folder or Hugging Face id")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=["plain", "lmtp", "ngram"],
        default=["plain", "lmtp", "ngram"],
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[2**i for i in range(9)])
    parser.add_argument(
        "--acceptance-lengths",
        nargs="+",
        type=float,
        default=[1, 2, 3, 4, 5, 6, 7],
        help="mean tokens a step, with --dummy",
    )
    parser.add_argument("--head-dtypes", nargs="+", default=["bfloat16", "int8", "fp8"])
    parser.add_argument("--draft-vocab", type=int, help="with --dummy; V if left out")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each answer")
    parser.add_argument("--engine", type=json.loads, default={}, help="more engine arguments, JSON")
    parser.add_argument("--dry-run", action="store_true", help="print the engines and stop")
    parser.add_argument("--out", type=Path, required=True, help="folder for result and picture")
    return parser


def plan(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every engine: what it is called, and its arguments."""
    common = {
        "dtype": args.dtype,
        "max_num_seqs": max(args.batches),
        "max_model_len": 2048,
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "seed": 0,
    }
    if args.dummy:
        common |= {"model": str(args.out / "target"), "load_format": "dummy"}
        common |= {"skip_tokenizer_init": True}
    else:
        common |= {"model": args.checkpoint}
    common |= args.engine
    engines: list[dict[str, Any]] = []
    for method in args.methods:
        if method == "plain":
            engines.append({"method": method, "args": common})
            continue
        for options, names in _speculative(method, args):
            engines.append(
                {"method": method} | names | {"args": common | {"speculative_config": options}}
            )
    return engines


def _speculative(
    method: str, args: argparse.Namespace
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(speculative config, what tells it from the others) for each setting of a method."""
    variants: list[tuple[dict[str, Any], dict[str, Any]]]
    if method == "ngram":
        variants = [({"method": "ngram", "num_speculative_tokens": 6, "prompt_lookup_max": 4}, {})]
    else:
        heads = {"model": str(args.out / "heads")} if args.dummy else {}
        variants = [
            ({"method": "lmtp", "lmtp_head_dtype": dtype} | heads, {"dtype": dtype})
            for dtype in args.head_dtypes
        ]
    if not args.dummy:
        return variants
    return [
        (
            options
            | {"rejection_sample_method": "synthetic", "synthetic_acceptance_length": length},
            names | {"acceptance_length": length},
        )
        for options, names in variants
        for length in args.acceptance_lengths
    ]


def measure(engine: dict[str, Any], batches: Sequence[int], tokens: int) -> dict[str, Any]:
    """Start one engine and time every batch size; runs in a process of its own."""
    from vllm import LLM, SamplingParams

    llm = LLM(**engine["args"])
    config = llm.llm_engine.vllm_config
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    vocab = config.model_config.get_vocab_size()
    runs = []
    for batch in batches:
        if engine["args"].get("skip_tokenizer_init"):
            rows = [[(7 * r + 13 * i) % vocab for i in range(PROMPT_TOKENS)] for r in range(batch)]
            prompts: list[Any] = [{"prompt_token_ids": row} for row in rows]
            params.detokenize = False
        else:
            prompts = [PROMPTS[i % len(PROMPTS)] for i in range(batch)]
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=8, detokenize=False))
        before = _counters(llm)
        start = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        drafts, accepted = (after - was for after, was in zip(_counters(llm), before, strict=True))
        made = sum(len(output.outputs[0].token_ids) for output in outputs)
        length = 1 + accepted / drafts if drafts else 1.0
        runs.append(
            {
                "batch": batch,
                "seconds": seconds,
                "tokens": made,
                "tokens_per_second": made / seconds,
                "measured_length": length,
                "seconds_per_step": seconds * length * batch / made,
                "first": [list(output.outputs[0].token_ids) for output in outputs[: len(PROMPTS)]],
            }
        )
    return {
        "runner": 2 if config.use_v2_model_runner else 1,
        "async": bool(config.scheduler_config.async_scheduling),
        "graphs": str(config.compilation_config.cudagraph_mode),
        "runs": runs,
    }


def _counters(llm: Any) -> tuple[float, float]:
    """Drafts made, and tokens of them accepted, so far."""
    values = {metric.name: getattr(metric, "value", 0.0) for metric in llm.get_metrics()}
    return (
        values.get("vllm:spec_decode_num_drafts", 0.0),
        values.get("vllm:spec_decode_num_accepted_tokens", 0.0),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write `engine.json` and `engine.png`; 1 if an engine failed."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["--one"]:
        job = json.loads(words[1])
        print(MARK + json.dumps(measure(job["engine"], job["batches"], job["tokens"])), flush=True)
        return 0
    args = build_parser().parse_args(words)
    engines = plan(args)
    if args.dry_run:
        print(json.dumps(engines, indent=1))
        return 0
    if args.dummy:
        size = MODELS[args.dummy]
        save_target(args.out / "target", args.dummy, size)
        save_heads(args.out / "heads", size, args.draft_vocab)
    runs: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    plain: dict[int, list[list[int]]] = {}
    for engine in engines:
        names = {key: value for key, value in engine.items() if key != "args"}
        print(f"{names} ...", file=sys.stderr)
        found = in_process(engine, args.batches, args.tokens)
        if "error" in found:
            failed.append(names | found)
            print(f"failed: {found['error'][-500:]}", file=sys.stderr)
            continue
        for run in found.pop("runs"):
            first = run.pop("first")
            if engine["method"] == "plain":
                plain[run["batch"]] = first
            elif not args.dummy and run["batch"] in plain:
                run["equals_plain"] = first == plain[run["batch"]]
            runs.append(names | found | run)
    result = {"target": args.dummy or Path(args.checkpoint).name, "failed": failed, "runs": runs}
    save("engine", result, ["eval.gpu.engine", *words], args.out)
    return 1 if failed else 0


def in_process(engine: dict[str, Any], batches: Sequence[int], tokens: int) -> dict[str, Any]:
    """`measure` in a new process, or {"error": the end of what it printed}."""
    job = json.dumps({"engine": engine, "batches": batches, "tokens": tokens})
    command = [sys.executable, "-m", "vllm_lmtp.eval.gpu.engine", "--one", job]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for printed in done.stdout.splitlines():
        mark = printed.find(MARK)
        if mark >= 0:
            found: dict[str, Any] = json.loads(printed[mark + len(MARK) :])
            return found
    return {"error": (done.stdout + done.stderr)[-3000:]}


if __name__ == "__main__":
    sys.exit(main())
