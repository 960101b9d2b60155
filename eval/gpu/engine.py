"""Times vLLM itself, with CUDA graphs and asynchronous scheduling: plain, L-MTP and ngram.

    python -m vllm_lmtp.eval.gpu.engine --dummy llama-3.1-8b --out build/gpu
    python -m vllm_lmtp.eval.gpu.engine --checkpoint FOLDER --out build/gpu

`--dummy` makes up the weights of a target and of its heads and lets vLLM accept drafts at given
mean lengths (its synthetic acceptance): time per step and throughput, free of how good heads are.
`--checkpoint` serves a target and its heads as they are: their acceptance, and whether the tokens
equal plain decoding's (in bfloat16 near ties may differ; ask for `--dtype float32` to compare).
Every engine runs in a process of its own, one after another; `logs/` keeps what each printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_lmtp.checkpoints.subject import subject_of
from vllm_lmtp.eval.engines.variants import WHOLE
from vllm_lmtp.eval.gpu.dimensions import MODELS
from vllm_lmtp.eval.gpu.dummy import TARGETS, save_heads, save_target
from vllm_lmtp.eval.gpu.jobs import MARK, run_job
from vllm_lmtp.eval.gpu.output import save
from vllm_lmtp.formats.scorer_tensors import TERMS
from vllm_lmtp.observe.metrics import DRAFT_SECONDS
from vllm_lmtp.training.distillation.prompts import file_rows

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
    what.add_argument("--checkpoint", help="folder or Hugging Face id of a target, or smollm2")
    parser.add_argument("--heads", help="of --checkpoint; its own when left out")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=["plain", "lmtp", "automatic", "ngram"],
        default=["plain", "lmtp", "ngram"],
        help="lmtp: whole drafts at every step; automatic: of a length found while serving",
    )
    parser.add_argument(
        "--prompts", type=Path, help="JSONL with `prompt`, for --checkpoint; default: a few of ours"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[2**i for i in range(9)])
    parser.add_argument(
        "--acceptance-lengths",
        nargs="+",
        type=float,
        default=[1, 2, 3, 4, 5, 6, 7],
        help="mean tokens a step, with --dummy",
    )
    parser.add_argument(
        "--real-acceptance",
        action="store_true",
        help="let the target judge the drafts of --dummy, nearly all of which it refuses: all that "
        "vLLM can do without a GPU",
    )
    parser.add_argument("--head-dtypes", nargs="+", default=["bfloat16", "int8", "fp8"])
    parser.add_argument("--draft-vocab", type=int, help="with --dummy; V if left out")
    parser.add_argument("--scorer", choices=TERMS, help="a term for the heads of --dummy")
    parser.add_argument("--rank", type=int, default=64, help="of that term")
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
        folder = str(args.out / "heads") if args.dummy else args.heads
        options = {} if folder is None else {"model": folder}
        options |= {} if method == "automatic" else WHOLE
        variants = [
            ({"method": "lmtp", "lmtp_head_dtype": dtype} | options, {"dtype": dtype})
            for dtype in args.head_dtypes
        ]
    if not args.dummy or args.real_acceptance:
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


def measure(
    engine: dict[str, Any], batches: Sequence[int], tokens: int, texts: Sequence[str] = PROMPTS
) -> dict[str, Any]:
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
            prompts = [texts[i % len(texts)] for i in range(batch)]
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=8, detokenize=False))
        before = _counters(llm)
        start = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        changes = (after - was for after, was in zip(_counters(llm), before, strict=True))
        drafts, accepted, drafting, passes = changes
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
                "seconds_per_draft": drafting / passes if passes else None,
                "first": [list(output.outputs[0].token_ids) for output in outputs[: len(PROMPTS)]],
            }
        )
    return {
        "runner": 2 if config.use_v2_model_runner else 1,
        "async": bool(config.scheduler_config.async_scheduling),
        "graphs": str(config.compilation_config.cudagraph_mode),
        "runs": runs,
    }


def _counters(llm: Any) -> tuple[float, float, float, float]:
    """Drafts made, tokens of them accepted, seconds spent drafting and drafting passes, so far."""
    metrics = {metric.name: metric for metric in llm.get_metrics()}
    drafts, accepted = (
        getattr(metrics.get(f"vllm:spec_decode_num_{what}"), "value", 0.0)
        for what in ("drafts", "accepted_tokens")
    )
    times = metrics.get(DRAFT_SECONDS)
    return drafts, accepted, getattr(times, "sum", 0.0), getattr(times, "count", 0.0)


def accepts_synthetically() -> bool:
    """Whether vLLM's rejection sampler has synthetic acceptance here; its CPU kernels do not."""
    from vllm.platforms import current_platform
    from vllm.triton_utils import HAS_TRITON

    return not current_platform.is_cpu() or bool(HAS_TRITON)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write `engine.json` and `engine.png`; 1 if an engine failed."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["--one"]:
        job = json.loads(words[1])
        print(MARK + json.dumps(measure(**job)), flush=True)
        return 0
    parser = build_parser()
    args = parser.parse_args(words)
    if args.checkpoint:
        subject = subject_of(args.checkpoint, args.heads)
        args.checkpoint, args.heads = subject.model, subject.heads
    engines = plan(args)
    if args.dry_run:
        print(json.dumps(engines, indent=1))
        return 0
    drafting = any(method != "plain" for method in args.methods)
    if args.dummy and drafting and not args.real_acceptance and not accepts_synthetically():
        parser.error(
            "vLLM's CPU backend has no synthetic acceptance, which --dummy measures lmtp and ngram "
            "with: run this on a GPU, or rehearse it with --real-acceptance"
        )
    if args.dummy:
        size = MODELS[args.dummy]
        save_target(args.out / "target", args.dummy, size)
        term = None if args.scorer is None else (args.scorer, args.rank)
        save_heads(args.out / "heads", size, args.draft_vocab, term)
    texts = list(PROMPTS)
    if args.prompts is not None:
        texts = [str(row["prompt"]) for row in file_rows(args.prompts)]
    runs: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    result = {"target": args.dummy or Path(args.checkpoint).name, "failed": failed, "runs": runs}
    plain: dict[int, list[list[int]]] = {}
    for number, engine in enumerate(engines):
        names = {key: value for key, value in engine.items() if key != "args"}
        print(f"{names} ...", file=sys.stderr)
        log = args.out / "logs" / "-".join(map(str, (number, *names.values())))
        job = {"engine": engine, "batches": args.batches, "tokens": args.tokens, "texts": texts}
        found = run_job(job, log.with_name(log.name + ".log"))
        if "error" in found:
            failed.append(names | found)
            print(f"failed: {found['error']} (see {found['log']})", file=sys.stderr)
        for run in found.pop("runs", []):
            first = run.pop("first")
            if engine["method"] == "plain":
                plain[run["batch"]] = first
            elif not args.dummy and run["batch"] in plain:
                run["equals_plain"] = first == plain[run["batch"]]
            runs.append(names | found | run)
        save(
            "engine", result, ["eval.gpu.engine", *words], args.out
        )  # the next may run out of time
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
