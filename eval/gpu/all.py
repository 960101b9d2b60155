"""All that a short loan of a GPU should measure, in order of worth, in one box of time.

    python -m vllm_lmtp.eval.gpu.all --minutes 9 --out build/gpu

Smoke test, speed of SmolLM2 beside plain decoding and ngram, the engine tests, an 8 B model's sizes
at several acceptance lengths, and heads made with what time is left. Every stage writes as it goes
into a folder of its own; one that fails or runs out of time leaves the next its own, and the same
command goes on with what is missing. `--rehearse` does all of it with tiny sizes on a CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_lmtp.checkpoints.subject import EMBEDDED, subject_of
from vllm_lmtp.eval.gpu.smoke import serving
from vllm_lmtp.eval.gpu.stages import DONE, Command, Stage, run_stages

SMOKE, SPEED, EXACTNESS, DIMENSIONS, HEADS = "smoke", "speed", "exactness", "dimensions", "heads"
SHARES = {SMOKE: 0.12, SPEED: 0.36, EXACTNESS: 0.2, DIMENSIONS: 0.24, HEADS: 1.0}
"""Of the time, at the most; heads have what is left."""
TESTS = (
    "chain",
    "real",
    "copying",
    "confidence",
    "drawn",
    "sampling",
    "head_dtype",
    "draft_length",
)
"""Of tests/engine, the likeliest to tell something new of a GPU first."""
CPU = {"enforce_eager": True, "distributed_executor_backend": "uni"}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing. Returns 1 if any stage is not done."""
    parser = argparse.ArgumentParser(prog="vllm_lmtp.eval.gpu.all", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, required=True, help="for everything")
    add("--out", type=Path, required=True, help="folder of all results")
    add("--model", default="smollm2", help="of speed and heads; default: smollm2")
    add("--prompts", type=Path, help="JSONL with `prompt`, for the speeds; default: a few of ours")
    add("--stages", nargs="+", choices=list(SHARES), default=list(SHARES))
    add("--rehearse", action="store_true", help="tiny sizes, on a CPU")
    args = parser.parse_args(argv)
    stages = [s for s in plan(args) if s.name in args.stages]
    found = run_stages(stages, args.out, 60 * args.minutes)
    return 0 if all(stage["state"] == DONE for stage in found.values()) else 1


def plan(args: argparse.Namespace) -> list[Stage]:
    """Every stage, most valuable first."""
    module = [sys.executable, "-m"]
    model = str(EMBEDDED) if args.rehearse else args.model

    def smoke(folder: Path, _: float) -> list[Command]:
        tried = ["--engine", json.dumps(CPU), "--tokens", "16"] if args.rehearse else []
        return [[*module, "vllm_lmtp.eval.gpu.smoke", *tried, "--out", str(folder)]]

    def speed(folder: Path, _: float) -> list[Command]:
        methods = ["plain", "automatic", "lmtp", "ngram"]
        size = _sizes(args.rehearse, [1, 2], [1, 8, 32, 128, 256], 16, 128)
        asked = [] if args.prompts is None else ["--prompts", str(args.prompts)]
        common = ["--methods", *methods, "--head-dtypes", "auto", *size, *asked]
        return [_engine(module, folder, args, ["--checkpoint", model, *common])]

    def exactness(folder: Path, _: float) -> list[Command]:
        files = [f"tests/engine/test_{name}.py" for name in TESTS]
        if args.rehearse:
            files = ["tests/method/test_leap.py"]
        report = ["--junit-xml", str(folder / "tests.xml"), "-m", "not slow", "-v"]
        return [[*module, "pytest", *report, *files]]

    def dimensions(folder: Path, _: float) -> list[Command]:
        heads = ["--head-dtypes", "fp8", "--draft-vocab", "32768", "--scorer", "recurrent"]
        heads += ["--rank", "256"]
        lengths = ["2.5", "1", "2", "1.5", "3"]
        judged = ["--acceptance-lengths", *lengths]
        if args.rehearse:
            heads = ["--head-dtypes", "int8", "--draft-vocab", "256", "--scorer", "recurrent"]
            judged = ["--real-acceptance"]
        size = _sizes(args.rehearse, [1, 2], [1, 8, 32, 64, 128, 256], 8, 128)
        name = "tiny" if args.rehearse else "llama-3.1-8b"
        common = ["--methods", "plain", "lmtp", *heads, *judged, *size]
        return [_engine(module, folder, args, ["--dummy", name, *common])]

    def heads(folder: Path, seconds: float) -> list[Command]:
        minutes = f"{0.9 * seconds / 60:.2f}"
        target, made = subject_of(model, heads=model).model, str(folder / "made")
        return [[*module, "vllm_lmtp.cli", "heads", target, made, "--minutes", minutes]]

    made = {SMOKE: smoke, SPEED: speed, EXACTNESS: exactness, DIMENSIONS: dimensions, HEADS: heads}
    return [Stage(name, SHARES[name], commands) for name, commands in made.items()]


def _sizes(rehearse: bool, few: list[int], many: list[int], short: int, long: int) -> list[str]:
    batches, tokens = (few, short) if rehearse else (many, long)
    return ["--batches", *map(str, batches), "--tokens", str(tokens)]


def _engine(module: Command, folder: Path, args: argparse.Namespace, words: list[str]) -> Command:
    """The kit's engines, with the arguments that were found to serve here."""
    options: dict[str, Any] = CPU if args.rehearse else serving(args.out / SMOKE)
    options = {"max_model_len": 512 if args.rehearse else 2048} | options
    common = ["--engine", json.dumps(options), "--out", str(folder)]
    return [*module, "vllm_lmtp.eval.gpu.engine", *words, *common]


if __name__ == "__main__":
    sys.exit(main())
